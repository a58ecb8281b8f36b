"""How accurate a model is on AVSynth's held-out clips, and what each engine and precision costs of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.environment import describe_environment
from kdcmae.config import Modality
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.data.clip import MIDDLE_FRAME
from kdcmae.errors import DataError
from kdcmae.predictors import EnginePredictor, Predictor, batched_logits, load_predictor
from kdcmae.runtime.feeding import RAW

__all__ = ["BEGIN", "END", "SCHEMA_VERSION", "drop_interval", "measure_accuracy", "render"]

SCHEMA_VERSION = 1
BEGIN = "<!-- accuracy: written by `kdcmae-bench accuracy` -->"
END = "<!-- end of accuracy -->"

_RESAMPLES = 10_000


def measure_accuracy(
    reference: Path,
    engines: Sequence[Path],
    *,
    clips: int,
    on_subject: Callable[[str], object] = lambda name: None,
) -> dict[str, Any]:
    """Classify the same held-out clips with a checkpoint and with its engines.

    Args:
        reference: the finetuned checkpoint.
        engines: folders of engines with the checkpoint's classes.
        clips: of AVSynth's test split.
        on_subject: told of each one before it runs.

    Returns:
        The report, ready for JSON. The first of its rows is the checkpoint's.

    Raises:
        DataError: an engine has other classes, or the checkpoint's are not AVSynth's.
        KdcmaeError: a model cannot be opened or run.
    """
    environment = describe_environment()
    rows: list[dict[str, Any]] = []
    reference_best: NDArray[np.intp] | None = None
    for path in (reference, *engines):
        on_subject(str(path))
        predictor = load_predictor(path)
        best, right = _answers(predictor, clips)
        if reference_best is None:
            reference_best, reference_right, labels = best, right, predictor.facts.labels
        if predictor.facts.labels != labels:
            raise DataError(f"{path} has other classes than {reference}; compile it from that checkpoint")
        lost = reference_right.astype(np.float64) - right
        rows.append(
            {
                **_described(predictor),
                "accuracy": float(right.mean()),
                "drop": float(lost.mean()),
                "drop_interval": drop_interval(lost),
                "changed": int(np.count_nonzero(best != reference_best)),
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment,
        "avsynth_version": AVSYNTH_VERSION,
        "clips": clips,
        "rows": rows,
    }


def drop_interval(lost: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean loss over clips.

    Args:
        lost: (N,) per clip 1 where the engine alone is wrong, -1 where the reference alone is, else 0. Drawing clips
            rather than two accuracies keeps the pairing.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    # A resample is a multinomial over the three values: their counts are all that its mean needs.
    counts = np.array([np.count_nonzero(lost == value) for value in (-1, 0, 1)])
    drawn = rng.multinomial(len(lost), counts / len(lost), size=_RESAMPLES)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(lost), (0.025, 0.975))
    return float(low), float(high)


def render(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    headings = ("model", "executes", "accuracy", "drop in points (95 %)", "clips classified otherwise")
    lines = [_row(headings), _row(["---"] * len(headings))]
    for number, row in enumerate(report["rows"]):
        low, high = (100 * bound for bound in row["drop_interval"])
        drop = f"{100 * row['drop']:.2f} ({low:.2f} to {high:.2f})" if number else "reference"
        changed = str(row["changed"]) if number else ""
        lines.append(_row([row["name"], row["executes"], f"{100 * row['accuracy']:.2f} %", drop, changed]))
    host = report["environment"]["host"]
    lines += ["", f"{report['clips']} held-out clips of AVSynth version {report['avsynth_version']}, on {host['cpu']}."]
    return "\n".join(lines)


def _answers(predictor: Predictor, clips: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(N,) each clip's best class, and whether it is its label; each model prepares the clips itself."""
    data, labels = AVSynth("test", clips=clips), predictor.facts.labels
    wanted = [record.labels[0] for record in data.records]
    if not set(wanted) <= set(labels):
        raise DataError(f"{predictor.facts.name} does not know AVSynth's classes; give a model finetuned on AVSynth")
    raw = [data.read(record, cast(Modality, predictor.facts.modality), [MIDDLE_FRAME]) for record in data.records]
    rows = [predictor.prepare(clip.waveform, clip.frames or None) for clip in raw]
    logits = batched_logits(predictor, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    best = logits.argmax(axis=1)
    return best, np.array([labels[index] == label for index, label in zip(best, wanted, strict=True)])


def _described(predictor: Predictor) -> dict[str, str]:
    """What it is and what it computes in, for people."""
    if not isinstance(predictor, EnginePredictor):
        return {"name": f"{predictor.facts.name} (PyTorch)", "executes": "fp32"}
    manifest = predictor.engine.manifest
    # How many matrix products run in each precision.
    products: dict[str, int] = manifest.precision.get("products", {})
    executes = " + ".join(sorted(products, key=lambda name: -products[name])) or "unknown"
    keep = manifest.model.get("keep")
    kept = f", keep {keep['ratio']:g} by {keep['by']}" if keep else ""
    raw = ", raw inputs" if any(spec.name in RAW for spec in manifest.inputs) else ""
    return {"name": f"{manifest.target}, {manifest.precision['asked']}{kept}{raw}", "executes": executes}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
