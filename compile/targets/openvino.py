"""OpenVINO engines: an IR whose types carry the precision, executed with the matching precision hint.

The frontend of raw inputs is an IR of its own, executed in float32. One model with both was tried: layers can be marked
as precise, but fusing a layer with its neighbours drops the mark, and a rounded filterbank is a wrong one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from kdcmae.compile.cutting import GraphPart
from kdcmae.compile.quantize import openvino as quantizing
from kdcmae.compile.quantize.openvino import beside_int8, declared_products
from kdcmae.compile.stages import Run, Values
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents, LayerRequest, Quantization, Target, plain_counts
from kdcmae.compile.targets.ir import keep_frontend_float32, share_weights
from kdcmae.compile.targets.openvino_parts import cut_model
from kdcmae.errors import EngineError
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.metrics import Kind
from kdcmae.runtime.openvino import HINTS, Pipeline, compile_native, read_execution
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

if TYPE_CHECKING:
    from kdcmae.compile.quantize.calibration import Clips
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.compile.variants import Variant

__all__ = ["TARGET", "OpenVino", "graph_values"]


class OpenVino(Target):
    """Converts the ONNX graph to IR and compiles it for the CPU."""

    name = "openvino"
    cannot_split = ""
    searched = ("fp32", "bf16", "int8")
    tools = ("nncf",)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Other forms of its IRs."""
        from kdcmae.compile.targets.openvino_variants import VARIANTS

        return VARIANTS

    def require(self) -> None:
        import_openvino()

    def require_quantizer(self, precision: str) -> None:
        quantizing.import_nncf()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        ov = import_openvino()
        engine = {"file": request.file_name("model.xml"), "device": "CPU"}
        models = []
        try:
            core = openvino_core()
            claimed = request.execute_as or request.precision
            floating = claimed if claimed in HINTS else beside_int8(request.cpu)
            hint = HINTS[floating]
            if request.frontend is not None:
                engine["frontend"] = request.file_name("frontend.xml")
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
            **vars(read_execution(*models)),
        )

    def cut(self, graph: Path, folder: Path, groups: Mapping[str, tuple[str, ...]]) -> list[GraphPart]:
        return cut_model(graph, folder, groups)

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
        counts = plain_counts(operations)
        return Contents(format=f"OpenVINO IR {version}", operations=counts)

    def quantization(self, settings: CompileSettings, kinds: Mapping[str, Kind]) -> Quantization:
        """By NNCF, which learns ranges from the clips and puts FakeQuantize nodes into an IR."""
        saturates, scores = settings.saturates, _scores_on_integers(settings.cpu)

        def write(graph: Path, path: Path, clips: Clips, layers: Sequence[str]) -> None:
            quantizing.quantize(graph, path, clips, layers, kinds=kinds, saturates=saturates, scores=scores)

        return Quantization(method=quantizing.method(saturates=saturates, scores=scores), suffix=".xml", write=write)

    def run_quantized(self, graph: Path, *, floating: bool = False) -> Run:
        return quantizing.read_runner(graph, floating=floating)

    def open_graph(self, graph: Path, precision: str) -> Callable[[Arrays], Any]:
        hint = HINTS[precision if precision in HINTS else beside_int8(this_cpu())]
        run: Callable[[Arrays], Any] = _compiled(openvino_core(), graph, hint).create_infer_request().infer
        return run

    def quantized_values(self, graph: Path) -> Values:
        return graph_values(graph, beside_int8(this_cpu()))

    def layer_values(self, request: LayerRequest) -> Values | None:
        from kdcmae.compile import layers

        settings = request.settings
        if settings.precision == "int8" and request.engine is None:
            return None  # the quantised graph is what the engine executes
        read = graph_values(request.engine or request.graph, settings.execute_as or settings.floating)
        return layers.graph_values(read, request.outputs)

    def hidden(self, settings: CompileSettings) -> str:
        return ""

    def share(self, graphs: Sequence[Path]) -> str:
        return share_weights(graphs)

    def floating_of(self, engine: Mapping[str, Any]) -> str:
        hints = {hint: precision for precision, hint in HINTS.items()}
        return hints.get(engine.get("inference_precision", ""), "")


TARGET = OpenVino()


def graph_values(path: Path, precision: str) -> Values:
    """Values of an IR, or of an ONNX file, by their names, as the CPU plugin computes them here.

    Args:
        precision: that the plugin is asked for.
    """

    def values(names: Sequence[str], inputs: Arrays) -> Arrays:
        ov = import_openvino()
        model = openvino_core().read_model(path)
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


def _scores_on_integers(cpu: Cpu) -> bool:
    """The plugin has kernels that multiply quantised queries and keys on integers, on x86 with VNNI alone."""
    return cpu.machine == "x86_64" and not cpu.saturates_int8


def _convert(graph: Path, path: Path) -> Path:
    """Save a graph as IR; its types are the ones wanted, and compressing would change them."""
    ov = import_openvino()
    ov.save_model(openvino_core().read_model(graph), path, compress_to_fp16=False)
    return path


def _compiled(core: Any, path: Path, hint: str) -> Any:
    return compile_native(core.read_model(path), "CPU", hint, {"PERFORMANCE_HINT": "LATENCY"})
