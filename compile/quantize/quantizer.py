"""From a float graph to a quantised one, as far as the accuracy budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize import openvino, qdq, ranking, store
from kdcmae.compile.quantize.accuracy import Accuracy, Evaluation, open_graph
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import GateError

__all__ = ["QuantizationReport", "Quantizer"]

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was quantised, for the manifest's ``precision`` section.

    Args:
        method: the tool, its version and the form of the graph.
        calibration: where the clips came from, and how many they were.
        quantized, kept: linear layers of the blocks, by name; those kept in floating point are the most sensitive.
        sensitivity: error of the outputs when a layer alone is quantised, relative, largest first; empty where it
            was not asked for.
        accuracy: top-1 on held-out clips; None where it was not asked for.
        reused: the graph came from the cache.
    """

    method: str
    calibration: Mapping[str, Any]
    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    sensitivity: Mapping[str, float]
    accuracy: Accuracy | None
    reused: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        facts = {**asdict(self), "quantized": list(self.quantized), "kept": list(self.kept)}
        if self.accuracy is not None:
            facts["accuracy"] = {**asdict(self.accuracy), "drop": self.accuracy.drop}
        return facts


class Quantizer:
    """Quantises one model's graph. Made while the model still has its weights: it ranks the layers with them.

    Args:
        model: the float32 model.
        settings: of the build; the target decides the form: an OpenVINO IR, or ONNX with Q/DQ pairs.
        step: shows progress.

    Raises:
        DataError: clips that cannot be used, or not for this model.
        MissingDependencyError: NNCF is not installed, for OpenVINO.
    """

    def __init__(self, model: EngineModel, settings: CompileSettings, step: Step) -> None:
        self._precision, self._target, self._step = settings.precision, settings.target, step
        self._saturates, self._floating = settings.saturates, settings.saturates_here
        self._scores = settings.scores_on_integers
        wanted = settings.quantization
        self._reuse = wanted.reuse
        self._budget = 0.0 if wanted.max_drop is None else wanted.max_drop
        if self._target == "openvino":
            openvino.import_nncf()
        self._layers = ranking.linear_layers(model.module)
        with step("calibration clips"):
            self._clips = load_clips(model, wanted.calibration, settings.batch, split="train")
        self._evaluation: Evaluation | None = None
        self._ranked: dict[str, float] = {}
        if wanted.max_drop is not None:
            with step("evaluation clips (torch)"):
                self._evaluation = Evaluation(model, load_clips(model, wanted.evaluation, settings.batch, split="test"))
            with step("sensitivity of the layers"):
                self._ranked = ranking.sensitivity(model, self._clips)

    def quantize(self, graph: Path) -> tuple[Path, QuantizationReport]:
        """Quantise as many layers as the accuracy budget allows.

        Args:
            graph: the float ONNX graph; its folder gets the result.

        Returns:
            The graph for the target, and what was done.

        Raises:
            GateError: even with one layer quantised, accuracy drops by more than the budget.
            EngineError: the graph cannot be quantised.
        """
        import onnx

        reached = set(products_of(onnx.load(graph, load_external_data=False).graph, self._layers).values())
        order = sorted(reached, key=lambda layer: (-self._ranked.get(layer, 0.0), self._layers.index(layer)))
        found = self._attempt(graph, order, 0)
        if found.drop <= self._budget:
            return found.graph, found.report
        # How many of the most sensitive layers have to stay: doubled until it is enough, then halved in between.
        fails, works, attempt = 0, len(order), found
        while works - fails > 1:
            kept = min(2 * fails or 1, len(order) - 1) if works == len(order) else (fails + works) // 2
            attempt = self._attempt(graph, order, kept)
            if attempt.drop <= self._budget:
                works, found = kept, attempt
            else:
                fails = kept
        if works == len(order):
            raise GateError(
                f"accuracy: with a single layer in {self._precision}, top-1 still drops by {attempt.drop:.2f} "
                f"percentage points, allowed {self._budget}; raise --max-drop, or calibrate on clips like "
                f"those of --evaluation"
            )
        return found.graph, found.report

    def _attempt(self, graph: Path, order: list[str], kept: int) -> _Attempt:
        """The graph with the first ``kept`` layers in floating point."""
        chosen = sorted(order[kept:], key=self._layers.index)
        make: Callable[..., None]
        if self._target == "openvino":
            make, suffix = partial(openvino.quantize, scores=self._scores), ".xml"
            method = openvino.method(saturates=self._saturates, scores=self._scores)
        else:
            make, suffix = qdq.quantize, ".onnx"
            method = qdq.method(self._precision, saturates=self._saturates)
        path = graph.parent / f"without-{kept}" / f"graph{suffix}"
        path.parent.mkdir()
        with self._step(f"quantise to {self._precision}" + (f", {kept} layers kept" if kept else "")):
            key = store.key_of(graph, self._clips, method, self._target, chosen) if self._reuse else ""
            reused = bool(key) and store.fetch(key, path)
            if not reused:
                make(graph, path, self._clips, chosen, self._precision, saturates=self._saturates)
                if key:
                    store.keep(key, path)
        accuracy = None
        if self._evaluation is not None:
            with self._step("accuracy of the quantised graph"):
                accuracy = self._evaluation.measure(open_graph(path, floating=self._floating))
        report = QuantizationReport(
            method=method,
            calibration={"source": self._clips.source, "clips": self._clips.count},
            quantized=tuple(chosen),
            kept=tuple(order[:kept]),
            sensitivity={layer: self._ranked[layer] for layer in order if layer in self._ranked},
            accuracy=accuracy,
            reused=reused,
        )
        return _Attempt(path, report)


@dataclass(frozen=True)
class _Attempt:
    graph: Path
    report: QuantizationReport

    @property
    def drop(self) -> float:
        """Percentage points of accuracy; none where it is not measured."""
        return self.report.accuracy.drop if self.report.accuracy else 0.0
