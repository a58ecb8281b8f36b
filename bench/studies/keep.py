"""Token keep: what engines on fewer tokens lose in accuracy and gain in latency, by every way to choose them."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

import kdcmae
from kdcmae.bench.machine.environment import describe_environment
from kdcmae.bench.machine.yardstick import open_yardstick
from kdcmae.bench.report.markers import table_row
from kdcmae.bench.report.records import Row, Settings
from kdcmae.bench.run.contender import Entry
from kdcmae.bench.run.interleaved import measure_group
from kdcmae.bench.run.timing import SpeedRatio
from kdcmae.errors import EngineError, GateError
from kdcmae.progress import Step
from kdcmae.runtime import load_engine

if TYPE_CHECKING:
    from kdcmae import KDCMAEClassifier
    from kdcmae.keep import TokenKeep
    from kdcmae.predictors import Predictor

__all__ = ["BEGIN", "END", "KeepSettings", "pareto", "render", "run_keep_benchmark"]

SCHEMA_VERSION = 3
BEGIN = "<!-- token keep: written by `kdcmae-bench keep` -->"
END = "<!-- end of token keep -->"

_WARM_UP_S = 0.5


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
    from kdcmae.keep import KeepBy, TokenKeep

    environment = describe_environment()
    keeps = [TokenKeep(ratio=1.0)]
    keeps += [TokenKeep(ratio=ratio, by=by) for ratio in settings.ratios for by in get_args(KeepBy)]
    exam = None
    if settings.clips:
        with step(f"classify {settings.clips} clips in PyTorch"):
            exam = _Exam(classifier, settings.clips)
    found = {
        f"{target} {precision}": _engines(classifier, keeps, facts, settings, (target, precision), exam, step)
        for target, precision in settings.targets
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "kdcmae_version": kdcmae.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "model": dict(facts),
        "settings": asdict(settings),
        "pytorch_accuracy": exam.accuracy if exam else None,
        "targets": found,
    }


class _Exam:
    """The same AVSynth test clips for every engine, and what the whole model answers in PyTorch.

    Args:
        classifier: the whole model.
        clips: how many.
    """

    def __init__(self, classifier: KDCMAEClassifier, clips: int) -> None:
        import torch

        from kdcmae.data.avsynth.memory import AVSynth
        from kdcmae.data.dataset import ClipDataset, DatasetSettings
        from kdcmae.predictors import CheckpointPredictor

        whole = CheckpointPredictor(classifier, "")
        data = AVSynth("test", clips=clips)
        settings = DatasetSettings(preprocessing=whole.facts.preprocessing)
        dataset = ClipDataset(data.records, data.labels, settings, data.read)
        samples = [dataset[index] for index in range(clips)]
        self._batch = {
            name: torch.stack([one[name] for one in samples]).numpy() for name in ("audio", "image", "target")
        }
        self._whole: Any = None
        self._whole, self.accuracy = self._answers(whole)

    def measure(self, predictor: Predictor) -> dict[str, float]:
        """Top-1 accuracy, and agreement with the whole model in PyTorch, in per cent."""
        first, accuracy = self._answers(predictor)
        return {"accuracy": accuracy, "agreement": 100 * float((first == self._whole).mean())}

    def _answers(self, predictor: Predictor) -> tuple[Any, float]:
        from kdcmae.evaluation.classification import score_clips

        scored = score_clips(predictor, [self._batch])
        first = scored.scores.argmax(axis=1)
        return first, 100 * float(scored.positives[np.arange(len(first)), first].mean())


def _engines(
    classifier: KDCMAEClassifier,
    keeps: Sequence[TokenKeep],
    facts: Mapping[str, Any],
    settings: KeepSettings,
    target: tuple[str, str],
    exam: _Exam | None,
    step: Step,
) -> list[dict[str, Any]]:
    """One engine per way: accuracy, then p50 in ms and speed against all tokens, each timed in a process of its own."""
    from kdcmae.predictors import EnginePredictor

    title = " ".join(target)
    rows: list[dict[str, Any]] = [{"by": keep.by if keep.ratio < 1 else "all", "ratio": keep.ratio} for keep in keeps]
    with tempfile.TemporaryDirectory() as folder:
        entries: dict[int, Entry] = {}
        for index, keep in enumerate(keeps):
            path = Path(folder) / str(index)
            try:
                _build(classifier, keep, facts, target, path, step)
            except (EngineError, GateError) as error:
                rows[index]["failed"] = str(error)
            else:
                entries[index] = Entry(source=str(path), subject=f"{title}, {keep.ratio:.0%} by {rows[index]['by']}")
        _require_whole(title, rows)
        if exam is not None:
            for index, entry in entries.items():
                with step(f"classify {settings.clips} clips, {entry.subject}"), load_engine(entry.source) as engine:
                    rows[index] |= exam.measure(EnginePredictor(engine))
        with open_yardstick(settings.threads) as yardstick:
            timed = measure_group(list(entries.values()), _timing(settings), step=step, yardstick=yardstick)
    for index, measured in zip(entries, timed, strict=True):
        rows[index] |= _timed(measured)
    _require_whole(title, rows)
    for row, best in zip(rows, pareto(rows), strict=True):
        row["on_front"] = best
    return rows


def _require_whole(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if "failed" in rows[0]:
        raise EngineError(f"{title}: the whole model has no engine to compare with: {rows[0]['failed']}")


def _timing(settings: KeepSettings) -> Settings:
    return Settings(batch=1, threads=settings.threads, seconds=settings.seconds, warm_up_s=_WARM_UP_S, timeout_s=300.0)


def _timed(row: Row) -> dict[str, Any]:
    """What a row of the benchmark says that is of interest here."""
    if row.latency is None:
        return {"failed": row.reason}
    speed = row.speed or SpeedRatio(ratio=1.0, low=1.0, high=1.0)  # the reference has none
    return {
        "p50_ms": row.latency.p50_ms,
        "stable": row.latency.stable,
        "speed": {"ratio": speed.ratio, "low": speed.low, "high": speed.high},
    }


def _build(
    classifier: KDCMAEClassifier,
    keep: TokenKeep,
    facts: Mapping[str, Any],
    target: tuple[str, str],
    folder: Path,
    step: Step,
) -> None:
    from kdcmae.compile.build import compile_engine
    from kdcmae.compile.models import classifier_model
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.keep import keep_tokens
    from kdcmae.runtime.manifest import BatchRange

    name, precision = target
    compiled = CompileSettings(target=name, precision=precision, batch=BatchRange(1, 1, 1))
    with step(f"build {name} {precision}, {keep.ratio:g} by {keep.by}"):
        compile_engine(
            classifier_model(keep_tokens(classifier, keep), **facts), folder, compiled, step=step, seconds={}
        )


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which rows no other row beats, neither in accuracy nor in latency; none where accuracy is unknown.

    Args:
        rows: of one target of a report.
    """
    points = [(row["p50_ms"], -row["accuracy"]) if {"p50_ms", "accuracy"} <= row.keys() else None for row in rows]
    known = [point for point in points if point is not None]
    return [
        one is not None and not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in known)
        for one in points
    ]


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown: per target a table of accuracy against latency."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    host, settings = report["environment"]["host"], report["settings"]
    clips = ", untrained"
    if settings["clips"]:
        clips = f", {settings['clips']} AVSynth test clips ({report['pytorch_accuracy']:.1f} % right in PyTorch)"
    yield (
        f"{report['model']['name']} on {host['cpu']}, {settings['threads']} threads, batch 1{clips}, load "
        f"{report['environment']['load_average_1min']:.1f} at the start. Accuracy and latency are those of the engine; "
        "agreement is with all tokens in PyTorch. On the front: nothing else is both faster and more accurate."
    )
    for target, rows in report["targets"].items():
        yield f"\n{target}:\n"
        head = ("tokens", "chosen by", "accuracy %", "agrees %", "p50 ms", "speed (95 %)", "on the front")
        yield table_row(head)
        yield table_row(["---"] * len(head))
        for row in rows:
            yield table_row(_cells(row))


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['ratio']:.0%}"
    yield row["by"]
    for name in ("accuracy", "agreement"):
        yield f"{row[name]:.1f}" if name in row else "-"
    if "failed" in row:
        yield from ("failed", "-")
    else:
        speed = row["speed"]
        yield f"{row['p50_ms']:.3g}" + ("" if row["stable"] else " (unstable)")
        yield f"{speed['ratio']:.2f} ({speed['low']:.2f}-{speed['high']:.2f})"
    yield "yes" if row["on_front"] else ""
