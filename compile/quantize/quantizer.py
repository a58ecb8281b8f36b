"""From a float graph to a quantised one, as far as the accuracy budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kdcmae.assets import FOLDER
from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize import ranking, store
from kdcmae.compile.quantize.accuracy import Accuracy, Evaluation
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.listed import calibration_note
from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.stages import Run
from kdcmae.compile.targets import load_target
from kdcmae.errors import GateError
from kdcmae.progress import Step
from kdcmae.runtime.manifest import BatchRange, digest

__all__ = ["QuantizationReport", "Quantizer"]


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was quantised, for the manifest's ``precision`` section.

    Args:
        method: the tool, its version and the form of the graph.
        calibration: where the clips came from, how many they were, and what there is to say of them: a ``note`` where
            they are not like the model's own, ``broken`` where some could not be used.
        quantized, kept: linear layers of the blocks, by name; those kept in floating point are the most sensitive.
        sensitivity: relative error of the outputs when only that layer is quantised, largest first; empty if it was
            not asked for.
        accuracy: on the clips that did not choose the layers; None where it was not asked for.
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
            facts["accuracy"] = self.accuracy.to_dict()
        return facts


class Quantizer:
    """Quantises one model's graph. Made while the model still has its weights: it ranks the layers with them.

    Args:
        model: the float32 model.
        settings: of the build; the target decides how a graph is quantised.
        evaluate: opens the clips that accuracy is measured on.

    Raises:
        DataError: clips that cannot be used, or not for this model.
        MissingDependencyError: NNCF is not installed, for OpenVINO.
    """

    def __init__(
        self,
        model: EngineModel,
        settings: CompileSettings,
        step: Step,
        *,
        evaluate: Callable[[EngineModel, str | Path, BatchRange], Evaluation] = Evaluation.on,
    ) -> None:
        self._precision, self._step = settings.precision, step
        self._target, self._floating = load_target(settings.target), settings.saturates_here
        wanted = settings.quantization
        self._reuse = wanted.reuse
        self._budget = 0.0 if wanted.max_drop is None else wanted.max_drop
        self._layers, self._kinds = ranking.linear_layers(model.module), models.kinds(model)
        self._way = self._target.quantization(settings, self._kinds)
        self._evaluation: Evaluation | None = None
        if wanted.max_drop is not None:
            with step("evaluation clips (torch)"):
                self._evaluation = evaluate(model, wanted.evaluation, settings.batch)
        with step("calibration clips"):
            held_back = wanted.evaluation if wanted.measured else None
            self._clips = load_clips(model, wanted.calibration, settings.batch, split="train", evaluation=held_back)
        self._calibration = {
            "source": self._clips.source,
            "clips": self._clips.count,
            **_noted(model, wanted.calibration),
            **({"broken": dict(self._clips.broken)} if self._clips.broken else {}),
        }
        self._ranked: dict[str, float] = {}
        if wanted.max_drop is not None:
            with step("sensitivity of the layers"):
                self._ranked = ranking.sensitivity(model, self._clips)

    def quantize(self, graph: Path) -> tuple[Path, QuantizationReport]:
        """Quantise as many layers as the accuracy budget allows.

        Half of the evaluation clips choose the layers, and the other half reports what they cost; on both the upper
        end of the drop's interval has to be within the budget.

        Args:
            graph: the float ONNX graph; its folder gets the result.

        Returns:
            The graph for the target, and what was done.

        Raises:
            GateError: accuracy drops by more than the budget even with one layer quantised, or on the clips that did
                not choose the layers.
            EngineError: the graph cannot be quantised.
        """
        chosen = self._chosen(graph)
        return chosen.graph, self.confirmed(chosen.graph, chosen.report)

    def confirmed(self, graph: Path, report: QuantizationReport) -> QuantizationReport:
        """The report with the accuracy on the clips that did not choose the layers; the same where none is limited.

        Args:
            graph: what :meth:`quantize` gave, or a variant of it.
            report: of the former.

        Raises:
            GateError: accuracy drops by more than the budget.
        """
        if self._evaluation is None:
            return report
        with self._step("accuracy on the other clips"):
            accuracy = self._evaluation.report(self._run(graph))
        if problem := accuracy.problem(self._budget):
            raise GateError(f"accuracy: {problem}")
        return replace(report, accuracy=accuracy)

    def _run(self, graph: Path) -> Run:
        return self._target.run_quantized(graph, floating=self._floating)

    def _chosen(self, graph: Path) -> _Attempt:
        """The graph with the fewest layers in floating point that is within the budget."""
        import onnx

        reached = set(products_of(onnx.load(graph, load_external_data=False).graph, self._layers).values())
        order = sorted(reached, key=lambda layer: (-self._ranked.get(layer, 0.0), self._layers.index(layer)))
        best = self._attempt(graph, order, 0)
        if not best.problem:
            return best
        # How many of the most sensitive layers have to stay: doubled until it is enough, then halved in between.
        fails, works, attempt = 0, len(order), best
        while works - fails > 1:
            kept = min(2 * fails or 1, len(order) - 1) if works == len(order) else (fails + works) // 2
            attempt = self._attempt(graph, order, kept)
            if not attempt.problem:
                works, best = kept, attempt
            else:
                fails = kept
        if works == len(order):
            raise GateError(
                f"accuracy: with a single layer in {self._precision}, {attempt.problem}; raise --max-drop, or "
                "calibrate on clips like those of --evaluation"
            )
        return best

    def _attempt(self, graph: Path, order: list[str], kept: int) -> _Attempt:
        """The graph with the first ``kept`` layers in floating point."""
        chosen, way = sorted(order[kept:], key=self._layers.index), self._way
        path = graph.parent / f"without-{kept}" / f"graph{way.suffix}"
        path.parent.mkdir()
        with self._step(f"quantise to {self._precision}" + (f", {kept} layers in float" if kept else "")):
            made_from = (graph, self._clips, way.method, self._target.name, chosen, self._kinds)
            key = store.key_of(*made_from) if self._reuse else ""
            reused = bool(key) and store.fetch(key, path)
            if not reused:
                way.write(graph, path, self._clips, chosen)
                if key:
                    store.keep(key, path)
        problem = ""
        if self._evaluation is not None:
            with self._step("accuracy of the quantised graph"):
                accuracy = self._evaluation.choose(self._run(path))
            problem = accuracy.problem(self._budget)
        report = QuantizationReport(
            method=way.method,
            calibration=self._calibration,
            quantized=tuple(chosen),
            kept=tuple(order[:kept]),
            sensitivity={layer: self._ranked[layer] for layer in order if layer in self._ranked},
            accuracy=None,
            reused=reused,
        )
        return _Attempt(path, report, problem)


@dataclass(frozen=True)
class _Attempt:
    """A quantised graph, and in ``problem`` why it loses more than the budget on the clips that choose; else empty."""

    graph: Path
    report: QuantizationReport
    problem: str


def _noted(model: EngineModel, data: str | Path) -> dict[str, str]:
    note = "" if _is_own(model) else calibration_note(data, model.labels, model=model.facts["name"])
    return {"note": note} if note else {}


def _is_own(model: EngineModel) -> bool:
    """Whether the model is untrained, or one of those that are shipped here: made clips are what they know."""
    return model.facts["random_weights"] or any(
        f"sha256:{digest(path)}" in model.facts["source"] for path in FOLDER.glob("*.safetensors")
    )
