"""The outputs of a model's modules, as a stage of a build computes them.

In a graph a module is found by the value that the exporter names after it.
"""

from __future__ import annotations

import ast
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from kdcmae.compile import export, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.sessions import open_session
from kdcmae.compile.stages import Values
from kdcmae.runtime.arrays import Arrays

__all__ = ["graph_values", "layer_order", "layer_outputs", "module_values", "observed", "onnx_values", "output_names"]


def output_names(graph: Path) -> dict[str, str]:
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


def graph_values(read: Values, outputs: Mapping[str, str]) -> Values:
    """Outputs of modules, from what reads values of a graph by their own names.

    Args:
        read: from names of values in the graph, and inputs, to those of them that it has.
        outputs: the value that is each module's output, as :func:`output_names` gives it.
    """

    def values(names: Sequence[str], inputs: Arrays) -> Arrays:
        wanted = {name: outputs[name] for name in names if name in outputs}
        read_values = read(list(wanted.values()), inputs)
        return {name: read_values[value] for name, value in wanted.items() if value in read_values}

    return values


def onnx_values(graph: Path) -> Values:
    """Values of an ONNX file by their names, as ONNX Runtime computes them; writes a scratch file beside it."""

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


def module_values(model: EngineModel, module: nn.Module) -> Values:
    """The outputs as another module of the same structure computes them, which takes the model's inputs."""
    return lambda names, inputs: layer_outputs(model, module, names, inputs)


def layer_order(model: EngineModel, inputs: Arrays) -> list[str]:
    """The submodules that run once and return a tensor, in the order they finish."""
    names = [name for name, _ in model.module.named_modules()]
    order: list[str] = []
    with observed(model.module, names, lambda name, _: order.append(name)):
        models.run(model, model.module, inputs)
    runs = Counter(order)
    return [name for name in order if runs[name] == 1]


def layer_outputs(
    model: EngineModel, module: nn.Module, names: Iterable[str], inputs: Arrays
) -> dict[str, NDArray[Any]]:
    """What the named submodules of a module return, which takes the model's inputs."""
    outputs: dict[str, NDArray[Any]] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.float().numpy()

    with observed(module, names, keep):
        models.run(model, module, inputs)
    return outputs


@contextmanager
def observed(module: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hand over the tensor that every named submodule returns, each time that it runs."""
    wanted = set(names)

    def hook(name: str) -> Callable[..., None]:
        return lambda _, __, output: see(name, output) if isinstance(output, Tensor) else None

    handles = [child.register_forward_hook(hook(name)) for name, child in module.named_modules() if name in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
