"""ONNX Runtime engines: the exported graph itself."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from kdcmae.compile.quantize.qdq import declared_products
from kdcmae.compile.sessions import open_session, quiet_options, require_onnxruntime
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents
from kdcmae.errors import EngineError, MissingDependencyError
from kdcmae.extras import to_compile
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.onnx import NO_BFLOAT16

__all__ = ["TARGET", "OnnxRuntime"]

# What ONNX Runtime makes of a product of dequantised operands.
_INTEGER_PRODUCTS = ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm")
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", *_INTEGER_PRODUCTS)
# It takes products for its own before those of dequantised operands are looked for, and they would run in float.
_NOT_WITH_PAIRS = ("MatMulAddFusion",)


class OnnxRuntime:
    """Ships the ONNX graph for ONNX Runtime."""

    reads_onnx = True
    splits_frontend = False

    def require(self) -> None:
        require_onnxruntime()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        from kdcmae.compile import export  # with PyTorch, which looking into a file does without

        ort = require_onnxruntime()
        export.deliver(request.graph, request.folder / "model.onnx")
        libraries = {"onnxruntime": ort.__version__}
        if request.precision == "bf16":
            return BuiltEngine(
                engine={"file": "model.onnx", "device": "CUDA"},
                libraries=libraries,
                executed={},
                read_from="nothing on this machine",
                products={},
                run=None,
                unrunnable=NO_BFLOAT16,
            )
        disabled = _NOT_WITH_PAIRS if request.precision == "int8" else ()
        executed = _optimised_types(request.graph, disabled)
        return BuiltEngine(
            engine={
                "file": "model.onnx",
                "device": "CPU",
                **({"disabled_optimizers": list(disabled)} if disabled else {}),
            },
            libraries=libraries,
            executed=executed,
            read_from="the graph that ONNX Runtime optimised",
            products=sum((Counter(executed.get(kind)) for kind in _PRODUCTS), Counter()),
            run=open_session(request.folder / "model.onnx", disabled),
            declared=declared_products(request.graph, request.precision) if request.precision == "int8" else None,
        )

    def inspect(self, path: Path) -> Contents:
        try:
            return Contents(format="ONNX", operations=_declared_types(path))
        except MissingDependencyError:
            return Contents(format="ONNX; install onnx to see its operations")


TARGET = OnnxRuntime()


def _optimised_types(graph: Path, disabled: Sequence[str]) -> dict[str, dict[str, int]]:
    """Node classes by output precision in the graph ONNX Runtime really executes, casts it inserted included."""
    import onnx

    ort = require_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        options = quiet_options(ort)
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        # Weights in a file of their own: one file holds 2 GiB at most.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled))
        optimised = onnx.load(options.optimized_model_filepath, load_external_data=False)
    declared = (*optimised.graph.value_info, *optimised.graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in declared}
    types |= {tensor.name: tensor.data_type for tensor in optimised.graph.initializer}
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for node in optimised.graph.node:
        if node.op_type in _INTEGER_PRODUCTS:
            counts[node.op_type]["int8"] += 1
            continue
        # The optimiser does not declare the results of casts it inserted; then the node's constants tell its type.
        precisions = [names[types[name]] for name in (*node.output, *node.input) if types.get(name) in names]
        if precisions:
            counts[node.op_type][precisions[0]] += 1
    return {kind: dict(found) for kind, found in sorted(counts.items())}


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
    return {kind: dict(found) for kind, found in sorted(counts.items())}
