"""OpenVINO engines: an IR whose types carry the precision, executed with the matching precision hint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from kdcmae.compile.parity import Arrays
from kdcmae.compile.quantize.openvino import declared_products, floating_hint
from kdcmae.compile.targets import BuildRequest, BuiltEngine
from kdcmae.compile.targets.ir import keep_frontend_float32
from kdcmae.errors import EngineError
from kdcmae.runtime.openvino import executed_precision, import_openvino

__all__ = ["TARGET", "OpenVino"]

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_PRECISIONS = {**{hint: precision for precision, hint in _HINTS.items()}, "i8": "int8", "u8": "int8"}
_DATA_ONLY = ("Const", "Input", "Output")


class OpenVino:
    """Converts the ONNX graph to IR and compiles it for the CPU."""

    reads_onnx = True

    def require(self) -> None:
        import_openvino()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        ov = import_openvino()
        path = request.folder / "model.xml"
        try:
            core = ov.Core()
            hint = _HINTS.get(request.precision) or floating_hint(core)
            # The types in the graph are the ones wanted; compressing would change them.
            ov.save_model(core.read_model(request.graph), path, compress_to_fp16=False)
            keep_frontend_float32(path)
            properties = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {ov.__version__} could not build the engine: {error}") from error
        executed = _executed(compiled)

        def run(feed: Arrays) -> Arrays:
            outputs = compiled.create_infer_request().infer(dict(feed))
            return {name: outputs[name] for name in request.outputs}

        return BuiltEngine(
            engine={"file": path.name, "device": "CPU", "inference_precision": hint},
            libraries={"openvino": ov.__version__.partition("-")[0]},
            executed=executed,
            products=executed["FullyConnected"],
            run=run,
            declared=declared_products(model, _PRECISIONS[hint]) if request.precision == "int8" else None,
        )


TARGET = OpenVino()


def _executed(compiled: Any) -> Mapping[str, Mapping[str, int]]:
    """Computing layers by class and precision, in the names used here."""
    executed: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, counts in executed_precision(compiled).items():
        for found, count in counts.items():
            if kind not in _DATA_ONLY and found in _PRECISIONS:
                executed[kind][_PRECISIONS[found]] += count
    return {kind: dict(counts) for kind, counts in executed.items()}
