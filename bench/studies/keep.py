"""Accuracy and latency of engines that keep a share of the tokens, for every way to choose the tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from kdcmae import KDCMAEClassifier
from kdcmae.bench.machine.yardstick import open_yardstick
from kdcmae.bench.report.envelope import machine, stamp
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.records import Row, Settings
from kdcmae.bench.report.table import Block, Column, fixed, interval, on_front, percent, table
from kdcmae.bench.run.contender import Entry
from kdcmae.bench.run.interleaved import measure_group
from kdcmae.bench.run.timing import SpeedRatio
from kdcmae.bench.studies.heldout import HeldOut
from kdcmae.compile.build import compile_engine
from kdcmae.compile.models import classifier_model
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import EngineError, GateError
from kdcmae.evaluation.exam import Exam
from kdcmae.keep import KeepBy, TokenKeep, keep_tokens
from kdcmae.predictors import CheckpointPredictor, EnginePredictor, Predictor
from kdcmae.progress import Step
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange

__all__ = ["SECTION", "HeldOutExam", "KeepSettings", "run_keep_benchmark"]

_WARM_UP_S, _TIMEOUT_S = 0.5, 300.0
_ONE = BatchRange(1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class KeepSettings:
    """What is compared.

    Args:
        targets: such as ``("openvino", "bf16")``.
        ratios: shares of the tokens; all of them are always measured too.
        clips: of AVSynth's test split; 0 measures latency alone, as for a model without training.
        threads: per engine.
        seconds: timed seconds per engine.
    """

    targets: tuple[tuple[str, str], ...]
    ratios: tuple[float, ...]
    clips: int
    threads: int
    seconds: float = 5.0


def run_keep_benchmark(
    classifier: KDCMAEClassifier, facts: Mapping[str, Any], settings: KeepSettings, *, step: Step
) -> dict[str, Any]:
    """Build an engine of the whole model and of every method at every ratio, and measure accuracy and latency of each.

    Args:
        classifier: in evaluation mode.
        facts: of the manifests: ``name``, ``source``, ``random_weights``.
        settings: what is compared.
        step: shows progress.

    Returns:
        The report as plain data: per target one row per method and ratio, the whole model first.

    Raises:
        EngineError: the whole model has no engine here.
        MissingDependencyError: a target's library is not installed.
    """
    envelope = stamp("keep")
    exam = None
    if settings.clips:
        with step(f"classify {settings.clips} clips in PyTorch"):
            exam = HeldOutExam(classifier, settings.clips)
    study = _Study(classifier, facts, settings, exam, step)
    return {
        **envelope,
        "model": dict(facts),
        "settings": asdict(settings),
        "pytorch_accuracy": exam.accuracy if exam else None,
        "targets": {" ".join(target): study.rows(*target) for target in settings.targets},
    }


class HeldOutExam:
    """An exam on AVSynth's test clips, whose reference is the whole model in PyTorch."""

    def __init__(self, classifier: KDCMAEClassifier, clips: int) -> None:
        whole = CheckpointPredictor(classifier, "")
        self._held_out = HeldOut(whole.facts.preprocessing, clips)
        scored = self._held_out.scores(whole)
        self._exam = Exam(positives=scored.positives, reference=scored.scores)
        self.accuracy = 100 * self._exam.score(scored.scores)

    def measure(self, predictor: Predictor) -> dict[str, float]:
        """Top-1 accuracy, and agreement with the whole model in PyTorch, in per cent."""
        answers = self._held_out.scores(predictor).scores
        return {"accuracy": 100 * self._exam.score(answers), "agreement": 100 * self._exam.agreement(answers)}


@dataclass(frozen=True)
class _Study:
    """Model, settings and exam, which the engines of all targets share."""

    classifier: KDCMAEClassifier
    facts: Mapping[str, Any]
    settings: KeepSettings
    exam: HeldOutExam | None
    step: Step

    def rows(self, target: str, precision: str) -> list[dict[str, Any]]:
        """Rows of one target: an engine per way, with accuracy, median latency in ms, and speed against all tokens."""
        ways = [TokenKeep(ratio=ratio, by=by) for ratio in self.settings.ratios for by in get_args(KeepBy)]
        keeps = [TokenKeep(ratio=1.0), *ways]
        title, compiled = f"{target} {precision}", CompileSettings(target=target, precision=precision, batch=_ONE)
        rows: list[dict[str, Any]] = [
            {"by": keep.by if keep.ratio < 1 else "all", "ratio": keep.ratio} for keep in keeps
        ]
        with tempfile.TemporaryDirectory() as folder:
            entries: dict[int, Entry] = {}
            for index, (keep, row) in enumerate(zip(keeps, rows, strict=True)):
                name = f"{title}, {keep.ratio:.0%} by {row['by']}"
                try:
                    with self.step(f"build {name}"):
                        self._build(keep, compiled, Path(folder) / str(index))
                except (EngineError, GateError) as error:
                    row["failed"] = str(error)
                else:
                    entries[index] = Entry(source=f"{folder}/{index}", subject=name)
            _require_whole(title, rows)
            if self.exam is not None:
                for index, entry in entries.items():
                    with self.step(f"classify {entry.subject}"), load_engine(entry.source) as engine:
                        rows[index] |= self.exam.measure(EnginePredictor(engine))
            for index, timed in zip(entries, self._timed(list(entries.values())), strict=True):
                rows[index] |= _timing(timed)
        _require_whole(title, rows)
        points = [(row["p50_ms"], -row["accuracy"]) if {"p50_ms", "accuracy"} <= row.keys() else None for row in rows]
        return [{**row, "on_front": best} for row, best in zip(rows, on_front(points), strict=True)]

    def _build(self, keep: TokenKeep, compiled: CompileSettings, folder: Path) -> None:
        model = classifier_model(keep_tokens(self.classifier, keep), **self.facts)
        compile_engine(model, folder, compiled, step=self.step, seconds={})

    def _timed(self, entries: Sequence[Entry]) -> list[Row]:
        threads, seconds = self.settings.threads, self.settings.seconds
        timing = Settings(batch=1, threads=threads, seconds=seconds, warm_up_s=_WARM_UP_S, timeout_s=_TIMEOUT_S)
        with open_yardstick(threads) as yardstick:
            return measure_group(entries, timing, step=self.step, yardstick=yardstick)


def _require_whole(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if "failed" in rows[0]:
        raise EngineError(f"{title}: the whole model has no engine to compare with: {rows[0]['failed']}")


def _timing(row: Row) -> dict[str, Any]:
    """Fields of this study from a row of the benchmark."""
    if row.latency is None:
        return {"failed": row.reason}
    speed = row.speed or SpeedRatio(ratio=1.0, low=1.0, high=1.0)  # the reference has none
    return {
        "p50_ms": row.latency.p50_ms,
        "stable": row.latency.stable,
        "speed": {"ratio": speed.ratio, "low": speed.low, "high": speed.high},
    }


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    """A table of accuracy against latency per target, of a trained model if there is one."""
    report = next((document for document in reversed(documents) if document["settings"]["clips"]), documents[-1])
    settings = report["settings"]
    clips = ", untrained"
    if settings["clips"]:
        clips = f", {settings['clips']} AVSynth test clips ({report['pytorch_accuracy']:.1f} % right in PyTorch)"
    yield (
        f"{report['model']['name']} on {machine(report)}, {settings['threads']} threads, batch 1{clips}, load "
        f"{report['environment']['load_average_1min']:.1f} at the start. Accuracy and latency are those of the engine; "
        "agreement is with all tokens in PyTorch. On the front: nothing else is both faster and more accurate."
    )
    for target, rows in report["targets"].items():
        yield table(target, _COLUMNS, rows)


_COLUMNS = (
    Column(title="tokens", value=lambda row: row["ratio"], text=percent(0, unit="%")),
    Column(title="chosen by", value=lambda row: row["by"], align="left"),
    Column(title="accuracy %", value=lambda row: row.get("accuracy"), text=fixed(1)),
    Column(title="agrees %", value=lambda row: row.get("agreement"), text=fixed(1)),
    Column(
        title="p50 ms",
        value=lambda row: row,
        text=lambda row: (
            "failed" if "failed" in row else f"{row['p50_ms']:.3g}" + (" (unstable)" if row["stable"] is False else "")
        ),
    ),
    Column(
        title="speed (95 %)",
        value=lambda row: SpeedRatio(**row["speed"]) if "speed" in row else None,
        text=interval,
    ),
    Column(title="on the front", value=lambda row: row["on_front"], text=lambda best: "yes" if best else ""),
)

SECTION = Section(name="token keep", command="keep", kind="keep", blocks=_blocks)
