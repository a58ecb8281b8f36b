"""Accuracy of a model on AVSynth's held-out clips, with both modalities or one, and the loss of each of its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.report.envelope import machine, stamp
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, percent, table
from kdcmae.bench.run.inputs import avsynth_clips, prepared
from kdcmae.bench.run.subjects import VARIANT
from kdcmae.config import MODALITY_INPUTS
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.data.reading import RawClip
from kdcmae.errors import DataError
from kdcmae.evaluation.exam import Answers, Exam
from kdcmae.predictors import EnginePredictor, Predictor, batched_logits, open_model
from kdcmae.runtime.feeding import RAW, sources
from kdcmae.runtime.manifest import Manifest

__all__ = ["SECTION", "USES", "Use", "measure_accuracy"]

_ALL = frozenset({"waveform", "frame"})


@dataclass(frozen=True, kw_only=True)
class Use:
    """The part of a clip that a model gets.

    Args:
        name: in the report.
        inputs: ``waveform`` and ``frame``, or one of them; the other is absent.
        zeroed: the input that is silent or black, if any.
    """

    name: str
    inputs: frozenset[str] = _ALL
    zeroed: str = ""

    def of(self, clip: RawClip) -> tuple[NDArray[np.float32] | None, list[NDArray[np.uint8]] | None]:
        """The waveform and the frames of a clip that has both, as this use leaves them."""
        waveform = clip.waveform if "waveform" in self.inputs else None
        frames = list(clip.frames) if "frame" in self.inputs else None
        if self.zeroed == "waveform" and waveform is not None:
            waveform = np.zeros_like(waveform)
        if self.zeroed == "frame" and frames is not None:
            frames = [np.zeros_like(frame) for frame in frames]
        return waveform, frames


USES = (
    Use(name="sound and picture"),
    Use(name="sound alone", inputs=frozenset({"waveform"})),
    Use(name="picture alone", inputs=frozenset({"frame"})),
    Use(name="silence and picture", zeroed="waveform"),
    Use(name="sound and black picture", zeroed="frame"),
)


def measure_accuracy(
    reference: Path,
    engines: Sequence[str | Path],
    *,
    clips: int,
    on_subject: Callable[[str], object] = lambda name: None,
) -> dict[str, Any]:
    """Classify the same held-out clips with a checkpoint and with its engines, in every use that each can serve.

    Args:
        reference: the finetuned checkpoint.
        engines: folders of engines with the checkpoint's classes; ``FOLDER@audio`` for one variant in it.
        clips: of AVSynth's test split.
        on_subject: called with the name of each model before it runs.

    Returns:
        The report, ready for JSON: a row per model and use, the checkpoint's first.

    Raises:
        DataError: an engine has other classes, or the checkpoint's are not AVSynth's.
        KdcmaeError: a model cannot be opened or run.
    """
    envelope = stamp("accuracy")
    raw, labels = avsynth_clips(clips)
    on_subject(str(reference))
    whole = _Subject(str(reference))
    classes = whole.predictor.facts.labels
    exams = {
        use: Exam.of_labels(labels, classes, reference=whole.logits(use, raw))
        for use in USES
        if use.inputs in whole.serves
    }
    rows = [whole.row(use, exam, exam.reference) for use, exam in exams.items() if exam.reference is not None]
    for source in map(str, engines):
        on_subject(source)
        subject = _Subject(source)
        if subject.predictor.facts.labels != classes:
            raise DataError(f"{source} has other classes than {reference}; compile it from that checkpoint")
        rows += [
            subject.row(use, exam, subject.logits(use, raw))
            for use, exam in exams.items()
            if use.inputs in subject.serves
        ]
    return {
        **envelope,
        "avsynth_version": AVSYNTH_VERSION,
        "clips": clips,
        "reference": whole.predictor.facts.name,
        "rows": rows,
    }


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    """A line per model, a column per use."""
    report = documents[-1]
    uses = list(dict.fromkeys(row["use"] for row in report["rows"]))
    models: dict[tuple[str, str], dict[str, Any]] = {}
    for row in report["rows"]:
        named = {"name": row["name"], "executes": row["executes"]}
        models.setdefault((row["name"], row["executes"]), named)[row["use"]] = row
    columns = (
        Column(title="model", value=lambda model: model["name"], align="left"),
        Column(title="executes", value=lambda model: model["executes"], align="left"),
        *(Column(title=use, value=methodcaller("get", use), text=_share) for use in uses),
        Column(title=f"points lost, {uses[0]} (95 %)", value=lambda model: model.get(uses[0]), text=_lost),
    )
    yield table("", columns, models.values())
    yield (
        f"Accuracy in per cent on {report['clips']} held-out clips of AVSynth version {report['avsynth_version']}, on "
        f"{machine(report)}; in brackets, the share of answers that are PyTorch's in the same use. Single-modality "
        "columns use the model's missing-modality path. Intervals are of paired clips; where no answer was lost, their "
        "upper end is what so few clips cannot exclude."
    )


SECTION = Section(name="accuracy", command="accuracy", kind="accuracy", blocks=_blocks)


def _share(row: Mapping[str, Any]) -> str:
    accuracy = percent(2, unit="")(row["accuracy"])
    return accuracy if row["is_reference"] else f"{accuracy} ({percent(2, unit='')(row['agreement'])})"


def _lost(row: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in row["drop_interval"])
    return "reference" if row["is_reference"] else f"{100 * row['drop']:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class _Part:
    """Part of a model that takes certain inputs: an engine, a variant of it, or a checkpoint's path (no manifest)."""

    inputs: tuple[str, ...]
    manifest: Manifest | None = None
    variant: str = ""


class _Subject:
    """A model and the uses that it can serve.

    Args:
        source: a checkpoint, an engine folder, or a variant of one.
    """

    def __init__(self, source: str) -> None:
        folder, _, variant = source.partition(VARIANT)
        self.predictor: Predictor = open_model(Path(folder))
        self.serves: Mapping[frozenset[str], _Part] = {
            sources(part.inputs): part for part in _parts(self.predictor, variant)
        }

    def logits(self, use: Use, raw: Sequence[RawClip]) -> NDArray[np.float32]:
        """(N, C) answers; the clips become what this model takes of them."""
        names, preprocessing = self.serves[use.inputs].inputs, self.predictor.facts.preprocessing
        return batched_logits(self.predictor, prepared(names, preprocessing, map(use.of, raw)))

    def row(self, use: Use, exam: Exam, answers: Answers) -> dict[str, Any]:
        """A row of the report: one use, beside the checkpoint in the same use."""
        loss = exam.loss(answers)
        return {
            **_described(self.predictor, self.serves[use.inputs]),
            "is_reference": answers is exam.reference,
            "use": use.name,
            "accuracy": loss.other / 100,
            "drop": loss.points / 100,
            "drop_interval": (loss.low / 100, loss.high / 100),
            "agreement": exam.agreement(answers),
        }


def _parts(predictor: Predictor, variant: str) -> list[_Part]:
    """An engine and its variants, or the named variant alone; of a checkpoint, its path for each modality."""
    if isinstance(predictor, EnginePredictor):
        engine = predictor.engine
        names = [variant] if variant else ["", *engine.variants]
        manifests = {name: Manifest.read(engine.folder, name) for name in names}
        return [
            _Part(tuple(spec.name for spec in manifest.inputs), manifest, name) for name, manifest in manifests.items()
        ]
    inputs = MODALITY_INPUTS[predictor.facts.modality]
    single = [_Part((name,)) for name in inputs]
    return single if len(inputs) == 1 else [_Part(inputs), *single]


def _described(predictor: Predictor, part: _Part) -> dict[str, str]:
    """Name of a model and the precisions that it computes in."""
    manifest = part.manifest
    if manifest is None or not isinstance(predictor, EnginePredictor):
        return {"name": f"{predictor.facts.name} (PyTorch)", "executes": "fp32"}
    products = predictor.engine.products(part.variant)
    executes = " + ".join(sorted(products, key=lambda name: -products[name])) or "unknown"
    keep = manifest.model.get("keep")
    kept = f", keep {keep['ratio']:g} by {keep['by']}" if keep else ""
    raw = ", raw inputs" if any(spec.name in RAW for spec in manifest.inputs) else ""
    return {"name": f"{manifest.target}, {manifest.precision['asked']}{kept}{raw}", "executes": executes}
