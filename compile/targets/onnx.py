"""ONNX Runtime engines: the exported graph itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae.compile.quantize.qdq import declared_products
from kdcmae.compile.sessions import open_session, require_onnxruntime
from kdcmae.compile.stages import Values
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents, LayerRequest, Target, plain_counts
from kdcmae.compile.weights import share_weights
from kdcmae.errors import EngineError, MissingDependencyError
from kdcmae.extras import to_compile
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.onnx import profile_execution

if TYPE_CHECKING:
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.compile.variants import Variant

__all__ = ["TARGET", "OnnxRuntime"]

# It takes products for its own before those of dequantised operands are looked for, and they would run in float.
_NOT_WITH_PAIRS = ("MatMulAddFusion",)


class OnnxRuntime(Target):
    """Ships the ONNX graph for ONNX Runtime."""

    name = "onnx"
    ships_graph = True
    cannot_split = ""
    searched = ("fp32", "int8")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Another form of its int8 graphs."""
        from kdcmae.compile.quantize.dynamic import VARIANT

        return (VARIANT,)

    def require(self) -> None:
        require_onnxruntime()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        from kdcmae.compile import export  # with PyTorch, which looking into a file does without

        ort = require_onnxruntime()
        file = request.file_name("model.onnx")
        path = request.folder / file
        export.deliver(request.graph, path)
        libraries = {"onnxruntime": ort.__version__}
        if unrunnable := self.record.cannot_run.get(request.precision, ""):
            return BuiltEngine(
                engine={"file": file, "device": "CUDA"},
                libraries=libraries,
                run=None,
                unrunnable=unrunnable,
            )
        disabled = _NOT_WITH_PAIRS if request.precision == "int8" else ()
        feed = example_inputs(request.inputs, request.batch.min)
        return BuiltEngine(
            engine={
                "file": file,
                "device": "CPU",
                **({"disabled_optimizers": list(disabled)} if disabled else {}),
            },
            libraries=libraries,
            run=open_session(path, disabled),
            declared=declared_products(request.graph, request.precision) if request.precision == "int8" else None,
            **vars(profile_execution(path, feed, disabled=disabled)),
        )

    def inspect(self, path: Path) -> Contents:
        try:
            return Contents(format="ONNX", operations=_declared_types(path))
        except MissingDependencyError:
            return Contents(format="ONNX; install onnx to see its operations")

    def open_graph(self, graph: Path, precision: str) -> Callable[[Arrays], Any]:
        return open_session(graph, _NOT_WITH_PAIRS if precision == "int8" else (), sparing=False)

    def layer_values(self, request: LayerRequest) -> Values | None:
        from kdcmae.compile.layers import graph_values, onnx_values

        return None if request.engine is None else graph_values(onnx_values(request.engine), request.outputs)

    def hidden(self, settings: CompileSettings) -> str:
        reason = self.record.cannot_run.get(settings.precision, "")
        return f"compared up to stage 'onnx', widened to float32: {reason}" if reason else ""

    def share(self, graphs: Sequence[Path]) -> str:
        return share_weights(graphs)


TARGET = OnnxRuntime()


def _declared_types(path: Path) -> dict[str, dict[str, int]]:
    """Node classes by the precision of their first output, as far as the file declares it."""
    onnx = import_library("onnx", install=to_compile("onnx"))
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise EngineError(f"{path} is not an ONNX file: {error}; rebuild it with kdcmae-compile") from error
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for node in graph.node:
        precision = names.get(types.get(node.output[0], 0), "") if node.output else ""
        counts[node.op_type][precision if precision != "undefined" else ""] += 1
    return plain_counts(counts)
