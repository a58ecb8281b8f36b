"""Torch-TensorRT engines: TensorRT plans inside an exported program, for apps that run PyTorch anyway.

Torch-TensorRT makes strongly typed networks, so the types of the program are the precision. It builds for the GPU at
hand; nothing is left to PyTorch's own kernels, or the build fails.
"""

from __future__ import annotations

import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents, Target, plain_counts
from kdcmae.errors import EngineError, cause
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.precisions import FLOATING, named
from kdcmae.runtime.torch_trt import INSTALL, import_torch_tensorrt

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["TARGET", "TorchTensorRt"]

_FILE = "model.ep"
_DEVICE = "cuda:0"
_PRECISIONS = {f"torch.{name}": precision for name, precision in named("torch", FLOATING).items()}
_LAYERS = {"layer_norm": "LayerNormalization", "softmax": "Softmax", "_softmax": "Softmax", "gelu": "Gelu"}
_PRODUCTS = ("addmm", "baddbmm", "bmm", "conv2d", "einsum", "linear", "matmul", "mm")


class TorchTensorRt(Target):
    """Compiles the program with Torch-TensorRT and saves what comes out."""

    name = "torch-trt"
    reads_onnx = False
    tools = ("tensorrt", "tensorrt-cu13-bindings")

    def require(self) -> None:
        import_torch_tensorrt()

    def build(self, request: BuildRequest) -> BuiltEngine:
        import torch
        from torch.export import passes

        assert request.program is not None
        torch_tensorrt = import_torch_tensorrt()
        tensorrt = import_library("tensorrt", install=INSTALL)
        executed = _program_precisions(request.program)
        inputs = {spec.name: _input(torch_tensorrt, request, spec) for spec in request.inputs}
        program = passes.move_to_device_pass(request.program, _DEVICE)
        try:
            module = torch_tensorrt.dynamo.compile(
                program,
                kwarg_inputs=inputs,
                device=torch.device(_DEVICE),
                disable_tf32=True,  # float32 that is asked for is float32
                min_block_size=1,
                require_full_compilation=True,
                pass_through_build_failures=True,
            )
            torch_tensorrt.save(
                module,
                str(request.folder / _FILE),
                output_format="exported_program",
                kwarg_inputs=inputs,
                dynamic_shapes=_dynamic_shapes(request),
                pickle_protocol=4,  # the default cannot hold weights over 4 GB
            )
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = cause(error)
            raise EngineError(
                f"torch_tensorrt {torch_tensorrt.__version__} could not build the engine: {reason}"
            ) from error
        return BuiltEngine(
            engine={"file": _FILE, "device": _DEVICE},
            libraries={
                "torch": torch.__version__.partition("+")[0],
                "torch_tensorrt": torch_tensorrt.__version__.partition("+")[0],
                "tensorrt": tensorrt.__version__,
            },
            executed=executed,
            read_from="the exported program, whose types TensorRT keeps",
            products=sum((Counter(executed.get(kind)) for kind in _PRODUCTS), Counter()),
            run=None,  # what was built is the artifact
        )

    def inspect(self, path: Path) -> Contents:
        if not zipfile.is_zipfile(path):
            raise EngineError(f"{path} is not an exported program: it is no archive; rebuild it with kdcmae-compile")
        return Contents(format="exported program with TensorRT plans")


TARGET = TorchTensorRt()


def _input(torch_tensorrt: ModuleType, request: BuildRequest, spec: Any) -> Any:
    import torch

    batch, dtype = request.batch, getattr(torch, spec.dtype)
    smallest, largest = spec.sizes(batch.min, "min"), spec.sizes(batch.max, "max")
    if smallest == largest:
        return torch_tensorrt.Input(shape=smallest, dtype=dtype, name=spec.name)
    return torch_tensorrt.Input(
        min_shape=smallest, opt_shape=spec.sizes(batch.opt), max_shape=largest, dtype=dtype, name=spec.name
    )


def _dynamic_shapes(request: BuildRequest) -> dict[str, Any] | None:
    """One batch axis that all inputs share; inferred from the inputs it would be one axis each."""
    if request.batch.min == request.batch.max:
        return None
    import torch

    batch = torch.export.Dim("batch", min=request.batch.min, max=request.batch.max)
    return {spec.name: {0: batch} for spec in request.inputs}


def _program_precisions(program: ExportedProgram) -> dict[str, dict[str, int]]:
    """Operators of the program by class and the precision of what they give."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "").partition(".")[0]
        if node.op == "call_function" and (name in _PRODUCTS or name in _LAYERS):
            counts[_LAYERS.get(name, name)][_PRECISIONS.get(str(node.meta["val"].dtype), "other")] += 1
    return plain_counts(counts)
