"""Classification: a model's scores against the labels of its clips.

Clips come as batches, mappings with ``audio`` (B, T, 128), ``image`` (B, 3, S, S) or (B, F, 3, S, S), as far as the
model uses them, and ``target`` (B, C) multi-hot: numpy arrays or tensors on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import MODALITY_INPUTS
from kdcmae.errors import DataError, KdcmaeError
from kdcmae.evaluation.metrics import accuracy, average_precision, d_prime, macro_mean, roc_auc, top_accuracy
from kdcmae.predictors import Predictor, batched_logits
from kdcmae.runtime.scores import scores

__all__ = ["ClassResult", "Classification", "Missing", "ScoredClips", "score_clips", "summarize"]

Missing = Literal["audio", "video"]
"""The modality withheld from an audiovisual model."""

_MISSING_INPUT = {"audio": "audio", "video": "image"}


@dataclass(frozen=True, eq=False)
class ScoredClips:
    """Scores and labels of the same clips.

    Args:
        scores: (N, C) float64.
        positives: (N, C) bool.
    """

    scores: NDArray[np.float64]
    positives: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class: how many clips have it and how well it is ranked; NaN where that cannot be measured.

    ``accuracy`` is the share of its clips whose best class is one of their labels.
    """

    label: str
    clips: int
    accuracy: float
    average_precision: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Result of a classification.

    Args:
        clips: number of scored clips.
        accuracy: share of labelled clips whose best class is one of their labels.
        top_5_accuracy: share of those with a label among the best five classes; NaN for fewer than six classes.
        mean_average_precision: macro mean over the classes with at least one clip.
        auc: macro ROC AUC over the classes that some clips have and some do not.
        d_prime: of that AUC.
        classes_left_out: number of classes without a clip, which the macro means leave out.
        classes: result of each class, in the model's order.
    """

    clips: int
    accuracy: float
    top_5_accuracy: float
    mean_average_precision: float
    auc: float
    d_prime: float
    classes_left_out: int
    classes: tuple[ClassResult, ...]


def score_clips(
    predictor: Predictor, batches: Iterable[Mapping[str, Any]], *, missing: Missing | None = None
) -> ScoredClips:
    """Run a model over clips; where a clip has several frames, its scores are averaged over them.

    Args:
        predictor: a checkpoint or an engine.
        missing: withhold this modality from an audiovisual model.

    Raises:
        DataError: no clips, no targets, or another number of classes than the model's.
        KdcmaeError: the model failed, or gave scores that are not finite.
    """
    facts = predictor.facts
    names = MODALITY_INPUTS[facts.modality]
    if missing is not None:
        if facts.modality != "audiovisual":
            raise DataError(f"{facts.name} sees only {facts.modality}: there is no {missing} to withhold from it")
        names = tuple(name for name in names if name != _MISSING_INPUT[missing])
    all_scores, targets = [], []
    for batch in batches:
        target = _target(batch, len(facts.labels))
        inputs, frames = _rows({name: np.asarray(batch[name]) for name in names})
        logits = batched_logits(predictor, inputs)
        if not np.isfinite(logits).all():
            raise KdcmaeError(f"{facts.name} gave logits that are not finite; it cannot be evaluated")
        all_scores.append(scores(logits, facts.scores).reshape(len(target), frames, -1).mean(axis=1))
        targets.append(target)
    if not targets:
        raise DataError("no clips to evaluate")
    return ScoredClips(np.concatenate(all_scores), np.concatenate(targets))


def summarize(scored: ScoredClips, labels: tuple[str, ...]) -> Classification:
    """Measure scores against labels.

    Raises:
        DataError: scores that are not finite.
    """
    values, positives = scored.scores, scored.positives
    classes = tuple(
        ClassResult(
            label=label,
            clips=int(has.sum()),
            accuracy=accuracy(values[has], positives[has]) if has.any() else math.nan,
            average_precision=average_precision(ranking, has),
            auc=roc_auc(ranking, has),
        )
        for label, ranking, has in zip(labels, values.T, positives.T, strict=True)
    )
    auc = macro_mean([result.auc for result in classes])
    return Classification(
        clips=len(values),
        accuracy=accuracy(values, positives),
        top_5_accuracy=top_accuracy(values, positives, 5),
        mean_average_precision=macro_mean([result.average_precision for result in classes]),
        auc=auc,
        d_prime=d_prime(auc),
        classes_left_out=sum(result.clips == 0 for result in classes),
        classes=classes,
    )


def _target(batch: Mapping[str, Any], classes: int) -> NDArray[np.bool_]:
    if "target" not in batch:
        raise DataError("the clips have no labels to evaluate against")
    target = np.asarray(batch["target"]) > 0
    if target.shape[1] != classes:
        raise DataError(f"the clips have {target.shape[1]} classes and the model has {classes}; use its own labels")
    return target


def _rows(inputs: dict[str, NDArray[np.float32]]) -> tuple[dict[str, NDArray[np.float32]], int]:
    """One row per frame of every clip, and the number of frames."""
    image = inputs.get("image")
    if image is None or image.ndim == 4:
        return inputs, 1
    frames = image.shape[1]
    rows = {"image": image.reshape(-1, *image.shape[2:])}
    if "audio" in inputs:
        rows = {"audio": inputs["audio"].repeat(frames, axis=0), **rows}
    return rows, frames
