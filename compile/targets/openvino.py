"""OpenVINO engines: an IR whose types carry the precision, executed with the matching precision hint.

The frontend of raw inputs is an IR of its own, executed in float32. One model with both was tried: layers can be marked
as precise, but fusing a layer with its neighbours drops the mark, and a rounded filterbank is a wrong one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kdcmae.compile.parity import Arrays
from kdcmae.compile.quantize.openvino import beside_int8, declared_products
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents
from kdcmae.compile.targets.ir import keep_frontend_float32
from kdcmae.errors import EngineError
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.openvino import (
    HINTS,
    Pipeline,
    compile_native,
    import_openvino,
    openvino_core,
    read_execution,
)

__all__ = ["TARGET", "OpenVino"]


class OpenVino:
    """Converts the ONNX graph to IR and compiles it for the CPU."""

    reads_onnx = True
    splits_frontend = True

    def require(self) -> None:
        import_openvino()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        ov = import_openvino()
        engine = {"file": "model.xml", "device": "CPU"}
        models = []
        try:
            core = openvino_core()
            claimed = request.execute_as or request.precision
            floating = claimed if claimed in HINTS else beside_int8(request.cpu)
            hint = HINTS[floating]
            if request.frontend is not None:
                engine["frontend"] = "frontend.xml"
                models.append(_compiled(core, _convert(request.frontend, request.folder / engine["frontend"]), "f32"))
            path = _convert(request.graph, request.folder / engine["file"])
            keep_frontend_float32(path)
            models.append(_compiled(core, path, hint))
            declared = declared_products(core.read_model(path), floating)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {ov.__version__} could not build the engine: {error}") from error
        pipeline = Pipeline(*models)

        def run(feed: Arrays) -> Arrays:
            return {name: output.copy() for name, output in pipeline.infer(feed, request.outputs).items()}

        return BuiltEngine(
            engine={**engine, "inference_precision": hint},
            libraries={"openvino": ov.__version__.partition("-")[0]},
            floating=floating,
            run=run,
            declared=declared if request.precision == "int8" else None,
            open_graph=_open_graph,
            **vars(read_execution(*models)),
        )

    def inspect(self, path: Path) -> Contents:
        operations: dict[str, Counter[str]] = defaultdict(Counter)
        version = ""
        try:
            for event, element in ElementTree.iterparse(path, events=("start", "end")):
                if event == "start" and element.tag == "net":
                    version = element.get("version", "")
                elif event == "end" and element.tag == "layer":
                    port = element.find("output/port")
                    precision = "" if port is None else port.get("precision", "").lower()
                    operations[element.get("type", "")][precision] += 1
                    element.clear()
        except ElementTree.ParseError as error:
            raise EngineError(f"{path} is not an OpenVINO IR: {error}; rebuild it with kdcmae-compile") from error
        if not version:
            raise EngineError(f"{path} is not an OpenVINO IR: it has no net; rebuild it with kdcmae-compile")
        counts = {kind: dict(found) for kind, found in sorted(operations.items())}
        return Contents(format=f"OpenVINO IR {version}", operations=counts)


TARGET = OpenVino()


def _convert(graph: Path, path: Path) -> Path:
    """Save a graph as IR; its types are the ones wanted, and compressing would change them."""
    ov = import_openvino()
    ov.save_model(openvino_core().read_model(graph), path, compress_to_fp16=False)
    return path


def _compiled(core: Any, path: Path, hint: str) -> Any:
    return compile_native(core.read_model(path), "CPU", hint, {"PERFORMANCE_HINT": "LATENCY"})


def _open_graph(graph: Path, precision: str) -> Callable[[Arrays], Any]:
    hint = HINTS[precision if precision in HINTS else beside_int8(this_cpu())]
    return _compiled(openvino_core(), graph, hint).create_infer_request().infer
