"""Token keep: what fewer tokens cost in accuracy and give in latency, by every way to choose them."""

from __future__ import annotations

import datetime
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import kdcmae
from kdcmae.bench.environment import describe_environment
from kdcmae.bench.timing import speed_ratio, time_window
from kdcmae.errors import EngineError, GateError
from kdcmae.runtime import Engine, load_engine

if TYPE_CHECKING:
    from kdcmae import KDCMAEClassifier

__all__ = ["BEGIN", "END", "KeepSettings", "pareto", "render", "run_keep_benchmark"]

SCHEMA_VERSION = 1
BEGIN = "<!-- token keep: written by `kdcmae-bench keep` -->"
END = "<!-- end of token keep -->"

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class KeepSettings:
    """What is compared.

    Args:
        targets: such as ``("openvino", "bf16")``.
        ratios: shares of the tokens; all of them are always measured too.
        clips: of AVSynth's test split; 0 measures latency alone, as for a model without training.
        threads: per engine.
        rounds: interleaved windows per engine.
        window_s: of one.
    """

    targets: tuple[tuple[str, str], ...]
    ratios: tuple[float, ...]
    clips: int
    threads: int
    rounds: int = 10
    window_s: float = 0.5


def run_keep_benchmark(
    classifier: KDCMAEClassifier, facts: Mapping[str, Any], settings: KeepSettings, *, step: Step
) -> dict[str, Any]:
    """Measure the whole model, and every method at every ratio.

    Args:
        classifier: in evaluation mode.
        facts: of the manifests: ``name``, ``source``, ``random_weights``.
        settings: what is compared.
        step: shows progress.

    Returns:
        The report as plain data: one row per method and ratio, the whole model first.

    Raises:
        EngineError: the whole model has no engine here.
        MissingDependencyError: a target's library is not installed.
    """
    from kdcmae.keep import KeepBy, TokenKeep

    environment = describe_environment()
    keeps = [TokenKeep(ratio=1.0)]
    keeps += [TokenKeep(ratio=ratio, by=by) for ratio in settings.ratios for by in get_args(KeepBy)]
    rows: list[dict[str, Any]] = [
        {"by": keep.by if keep.ratio < 1 else "all", "ratio": keep.ratio, "latency": {}} for keep in keeps
    ]
    if settings.clips:
        with step(f"classify {settings.clips} clips, {len(keeps)} times"):
            for row, measured in zip(rows, _accuracies(classifier, keeps, settings.clips), strict=True):
                row.update(measured)
    for target, precision in settings.targets:
        latencies = _latencies(classifier, keeps, facts, settings, (target, precision), step)
        for row, latency in zip(rows, latencies, strict=True):
            row["latency"][f"{target} {precision}"] = latency
    return {
        "schema_version": SCHEMA_VERSION,
        "kdcmae_version": kdcmae.__version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "environment": environment,
        "model": dict(facts),
        "settings": asdict(settings),
        "rows": rows,
    }


def _accuracies(classifier: KDCMAEClassifier, keeps: Sequence[Any], clips: int) -> list[dict[str, float]]:
    """Top-1 accuracy on AVSynth and agreement with the whole model, in per cent, of the PyTorch models."""
    import numpy as np
    import torch

    from kdcmae.data.avsynth.memory import AVSynth
    from kdcmae.data.dataset import ClipDataset, DatasetSettings
    from kdcmae.evaluation.classification import score_clips
    from kdcmae.keep import keep_tokens
    from kdcmae.predictors import CheckpointPredictor

    data = AVSynth("test", clips=clips)
    preprocessing = CheckpointPredictor(classifier, "").facts.preprocessing
    dataset = ClipDataset(data.records, data.labels, DatasetSettings(preprocessing=preprocessing), data.read)
    samples = [dataset[index] for index in range(clips)]
    batch = {name: torch.stack([sample[name] for sample in samples]).numpy() for name in ("audio", "image", "target")}
    found, whole = [], None
    for keep in keeps:
        scored = score_clips(CheckpointPredictor(keep_tokens(classifier, keep), ""), [batch])
        first = scored.scores.argmax(axis=1)
        whole = first if whole is None else whole
        right = scored.positives[np.arange(clips), first]
        found.append({"accuracy": 100 * float(right.mean()), "agreement": 100 * float((first == whole).mean())})
    return found


def _latencies(
    classifier: KDCMAEClassifier,
    keeps: Sequence[Any],
    facts: Mapping[str, Any],
    settings: KeepSettings,
    target: tuple[str, str],
    step: Step,
) -> list[dict[str, Any]]:
    """Build one engine per way, then time them in turns: p50 in ms, and speed against all tokens."""
    from kdcmae.compile.build import compile_engine
    from kdcmae.compile.models import classifier_model, examples
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.keep import keep_tokens
    from kdcmae.runtime.manifest import BatchRange

    name, precision = target
    compiled = CompileSettings(target=name, precision=precision, batch=BatchRange(1, 1, 1))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines: dict[int, Engine] = {}
        failed: dict[int, str] = {}
        for index, keep in enumerate(keeps):
            model = classifier_model(keep_tokens(classifier, keep), **facts)
            try:
                with step(f"build {name} {precision}, {keep.ratio:g} by {keep.by}"):
                    compile_engine(model, folder / str(index), compiled, step=step, seconds={})
                engines[index] = stack.enter_context(load_engine(folder / str(index), threads=settings.threads))
            except (EngineError, GateError) as error:
                failed[index] = str(error)
        if 0 not in engines:
            raise EngineError(f"{name} {precision}: the whole model has no engine to compare with: {failed[0]}")
        inputs = examples(classifier_model(classifier, **facts), 1)
        windows: dict[int, list[float]] = {index: [] for index in engines}
        with step(f"time {name} {precision} in {settings.rounds} rounds"):
            for turn in range(settings.rounds):
                for index in engines if turn % 2 == 0 else reversed(engines):
                    calls = time_window(partial(engines[index].infer, inputs), settings.window_s)
                    windows[index].append(statistics.median(calls))
    return [
        {"failed": failed[index]}
        if index in failed
        else {"p50_ms": statistics.median(windows[index]), **asdict(speed_ratio(windows[0], windows[index]))}
        for index in range(len(keeps))
    ]


def pareto(rows: Sequence[Mapping[str, Any]], target: str) -> list[bool]:
    """Which rows no other row beats, neither in accuracy nor in latency.

    Args:
        rows: of a report.
        target: a key of their latencies.
    """
    points = [(row["latency"][target].get("p50_ms", math.inf), -row.get("accuracy", 0.0)) for row in rows]
    return [not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points) for one in points]


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown: accuracy, agreement, and per target latency, speed and whether it is on the front."""
    rows, host = report["rows"], report["environment"]["host"]
    targets = list(rows[0]["latency"])
    fronts = {target: pareto(rows, target) for target in targets}
    head = ["tokens", "chosen by", "accuracy %", "agrees %", *(f"{target}, ms (speed)" for target in targets)]
    lines = [
        f"{report['model']['name']} on {host['cpu']}, {report['settings']['threads']} threads, batch 1, "
        f"{report['settings']['clips']} AVSynth test clips, load {report['environment']['load_average_1min']:.1f} at "
        "the start. Bold: nothing else is both faster and more accurate.",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
    ]
    for index, row in enumerate(rows):
        cells = [f"{row['ratio']:.0%}", row["by"], *(_per_cent(row, name) for name in ("accuracy", "agreement"))]
        for target in targets:
            latency = row["latency"][target]
            text = "failed" if "failed" in latency else f"{latency['p50_ms']:.3g} ({latency['ratio']:.2f}x)"
            cells.append(f"**{text}**" if fronts[target][index] else text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _per_cent(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.1f}" if name in row else "-"
