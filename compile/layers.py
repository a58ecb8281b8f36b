"""The outputs of a model's modules, as each stage of a build computes them.

A module is found in a graph by the value that the exporter names after it.
"""

from __future__ import annotations

import ast
import functools
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcmae.compile import export, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays
from kdcmae.compile.quantize.openvino import beside_int8
from kdcmae.compile.sessions import open_session
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import HINTS, compile_native, import_openvino, openvino_core

__all__ = [
    "Values",
    "compiled_values",
    "layer_order",
    "layer_outputs",
    "layer_values",
    "module_values",
    "onnx_values",
    "openvino_values",
    "quantized_values",
]

# From names of values in the graph, and inputs, to those of them that the stage has.
Values = Callable[[Sequence[str], Arrays], Arrays]


def layer_values(graph: Path) -> dict[str, str]:
    """The value of an exported ONNX graph that is each module's output, by the module's name.

    A module that runs twice is left out: which of its values is meant is not clear.
    """
    import onnx

    values: dict[str, str] = {}
    repeated: set[str] = set()
    previous: set[str] = set()
    for node in onnx.load(graph, load_external_data=False).graph.node:
        written = next((entry.value for entry in node.metadata_props if entry.key == export.SCOPES), "")
        if not written:
            continue
        scopes = set(ast.literal_eval(written)[1:-1])
        repeated |= {name for name in scopes - previous if name in values}
        values |= dict.fromkeys(scopes, node.output[0])
        previous = scopes
    return {name: value for name, value in values.items() if name not in repeated}


def onnx_values(graph: Path) -> Values:
    """Values of an ONNX file, as ONNX Runtime computes them; writes a scratch file beside it."""

    def values(names: Sequence[str], inputs: Arrays) -> Arrays:
        import onnx

        scratch = graph.with_name(f".{graph.name}.layers-{secrets.token_hex(8)}")
        model = onnx.load(graph, load_external_data=False)
        present = {name for node in model.graph.node for name in node.output}
        known = {output.name for output in model.graph.output}
        wanted = [name for name in names if name in present]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
        onnx.save_model(model, scratch)
        try:
            results = open_session(scratch)(inputs)
        finally:
            scratch.unlink()
        return {name: results[name] for name in wanted}

    return values


def openvino_values(path: Path, precision: str) -> Values:
    """Values of an OpenVINO IR, or of an ONNX file, as the CPU plugin computes them here when asked for a precision."""

    def values(names: Sequence[str], inputs: Arrays) -> Arrays:
        ov = import_openvino()
        core = openvino_core()
        model = core.read_model(path)
        present = {name for node in model.get_ops() for port in node.outputs() for name in port.get_names()}
        own = {name for port in model.outputs for name in port.get_names()}
        wanted = [name for name in names if name in present]
        model.add_outputs([name for name in wanted if name not in own])
        converted = ov.preprocess.PrePostProcessor(model)
        for name in wanted:
            converted.output(name).tensor().set_element_type(ov.Type.f32)  # numpy has no bfloat16
        model = converted.build()
        results = compile_native(model, "CPU", HINTS[precision], {}).create_infer_request().infer(dict(inputs))
        return {name: results[name] for name in wanted}

    return values


def quantized_values(graph: Path) -> Values:
    """Values of a quantised graph, as what reads it computes them: OpenVINO an IR, ONNX Runtime a file with Q/DQ."""
    if graph.suffix == ".xml":
        return openvino_values(graph, beside_int8(this_cpu()))
    return onnx_values(graph)


def module_values(model: EngineModel, module: nn.Module, names: Mapping[str, str]) -> Values:
    """The values as another module of the same structure computes them."""
    modules = {value: name for name, value in names.items()}

    def values(wanted: Sequence[str], inputs: Arrays) -> Arrays:
        outputs = layer_outputs(model, module, [modules[value] for value in wanted], inputs)
        return {names[name]: output for name, output in outputs.items()}

    return values


def compiled_values(
    model: EngineModel, lowered: nn.Module, names: Mapping[str, str], *, batch: BatchRange, device: str, folder: Path
) -> Values:
    """Values as the code of AOTInductor computes them; it is compiled with these among its outputs.

    Args:
        model: whose inputs the module takes.
        lowered: the module that becomes the engine.
        names: the value per module.
        batch: of the engine.
        device: ``"cpu"`` or ``"cuda"``.
        folder: for the packages.
    """
    from kdcmae.compile.targets import aoti

    modules = {value: name for name, value in names.items()}

    @functools.cache
    def compiled(*wanted: str) -> Callable[..., Sequence[Tensor]]:
        package = folder / f"{len(wanted)}-layers.pt2"
        with _also_giving(lowered, [modules[value] for value in wanted]):
            program = export.export_program(model, lowered, batch)
        aoti.compile_package(program, package, device)
        return torch._inductor.aoti_load_package(str(package))

    def values(wanted: Sequence[str], inputs: Arrays) -> Arrays:
        run = compiled(*wanted)
        # Compiled code takes the strides for granted that it was traced with.
        given = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = run(**{name: tensor.to(device) for name, tensor in given.items()})
        found = outputs[len(model.outputs) :]
        return {value: output.float().cpu().numpy() for value, output in zip(wanted, found, strict=True)}

    return values


@contextmanager
def _also_giving(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Make a module return what its named submodules return, after its own outputs."""
    seen: dict[str, Tensor] = {}

    def more(_: nn.Module, __: Any, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*outputs, *(seen[name] for name in names))

    with _observed(module, names, seen.__setitem__):
        handle = module.register_forward_hook(more)
        try:
            yield
        finally:
            handle.remove()


def layer_order(model: EngineModel, names: Iterable[str], inputs: Arrays) -> list[str]:
    """The named submodules that return a tensor, in the order they finish."""
    order: list[str] = []
    with _observed(model.module, names, lambda name, _: order.append(name)):
        models.run(model, model.module, inputs)
    return list(dict.fromkeys(order))


def layer_outputs(
    model: EngineModel, module: nn.Module, names: Iterable[str], inputs: Arrays
) -> dict[str, NDArray[Any]]:
    """What the named submodules of a module return, which takes the model's inputs."""
    outputs: dict[str, NDArray[Any]] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.float().numpy()

    with _observed(module, names, keep):
        models.run(model, module, inputs)
    return outputs


@contextmanager
def _observed(module: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """See the tensor that every named submodule returns."""
    wanted = set(names)

    def hook(name: str) -> Callable[..., None]:
        return lambda _, __, output: see(name, output) if isinstance(output, Tensor) else None

    handles = [child.register_forward_hook(hook(name)) for name, child in module.named_modules() if name in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
