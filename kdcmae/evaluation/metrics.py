"""Measures of scores against labels: accuracy, confusion, average precision, ROC AUC and d'. Exact, ties included.

Shapes: N clips, C classes. Scores may be any numbers that rank; labels are multi-hot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError

__all__ = [
    "Positives",
    "Scores",
    "accuracy",
    "average_precision",
    "confusion_matrix",
    "correctness",
    "d_prime",
    "macro_mean",
    "mean_average_precision",
    "roc_auc",
    "top_accuracy",
]

Scores = NDArray[np.floating[Any]]
Positives = NDArray[np.bool_]


def accuracy(scores: Scores, positives: Positives) -> float:
    """Share of labelled clips whose best class is one of theirs.

    Args:
        scores: (N, C).
        positives: (N, C) bool; clips without a label do not count.

    Returns:
        In [0, 1]; where several classes share the best score, the share of them that are right. NaN if no clip
        has a label.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    right = correctness(scores, positives)[positives.any(axis=1)]
    return float(right.mean()) if right.size else math.nan


def correctness(scores: Scores, positives: Positives) -> NDArray[np.float64]:
    """Whether the best class of each clip is one of its own; :func:`accuracy` is the mean.

    Args:
        scores: (N, C).
        positives: (N, C) bool.

    Returns:
        (N,), 0 or 1; where several classes share the best score, the share of them that are right.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    _check(scores, positives)
    best = scores == scores.max(axis=1, keepdims=True)
    return np.asarray((best & positives).sum(axis=1) / best.sum(axis=1))


def top_accuracy(scores: Scores, positives: Positives, best: int) -> float:
    """Share of labelled clips with one of their classes among the best few.

    Args:
        scores: (N, C).
        positives: (N, C) bool; clips without a label do not count.

    Returns:
        In [0, 1]; a class that ties with others has the last rank among them. NaN if no clip has a label, or if there
        are no more classes than that.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    _check(scores, positives)
    labelled = positives.any(axis=1)
    if not labelled.any() or scores.shape[1] <= best:
        return math.nan
    own = np.where(positives, scores, -np.inf).max(axis=1, keepdims=True)
    rank = 1 + ((scores >= own) & ~positives).sum(axis=1)
    return float((rank[labelled] <= best).mean())


def confusion_matrix(scores: Scores, positives: Positives) -> NDArray[np.int64]:
    """Count of clips by their own class and the best class of their scores.

    Args:
        scores: (N, C); of several best classes the first counts.
        positives: (N, C) bool; clips without a label do not count.

    Returns:
        (C, C): rows are the clips' own classes, columns the best ones. A clip with several labels counts once, on the
        diagonal, where its best class is one of them, and otherwise in the row of each.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    _check(scores, positives)
    best = scores.argmax(axis=1)
    right = positives[np.arange(len(best)), best]
    counts = np.zeros((positives.shape[1], positives.shape[1]), dtype=np.int64)
    np.add.at(counts, (best[right], best[right]), 1)
    clips, own = np.nonzero(positives & ~right[:, None])
    np.add.at(counts, (own, best[clips]), 1)
    return counts


def average_precision(scores: Scores, positives: Positives) -> float:
    """Area under the precision-recall steps of one class.

    Args:
        scores: (N,).
        positives: (N,) bool.

    Returns:
        The sum over distinct scores, best first, of precision times the recall gained; NaN without positives.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    taken, hits = _cumulative(scores, positives)
    if not positives.any():
        return math.nan
    return float((hits / taken * np.diff(hits, prepend=0)).sum() / hits[-1])


def mean_average_precision(scores: Scores, positives: Positives) -> float:
    """Average precision, averaged over the classes that some clip has.

    Args:
        scores: (N, C).
        positives: (N, C) bool.

    Returns:
        In [0, 1]; NaN if no clip has a label.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    _check(scores, positives)
    return macro_mean([average_precision(ranking, has) for ranking, has in zip(scores.T, positives.T, strict=True)])


def macro_mean(values: Sequence[float]) -> float:
    """Mean over the classes of which a value could be measured; NaN where there are none."""
    measured = [value for value in values if not math.isnan(value)]
    return math.fsum(measured) / len(measured) if measured else math.nan


def roc_auc(scores: Scores, positives: Positives) -> float:
    """Probability that a positive of one class scores above a negative, a tie counting one half.

    Args:
        scores: (N,).
        positives: (N,) bool.

    Returns:
        In [0, 1]; NaN without positives or without negatives.

    Raises:
        DataError: shapes that differ, or scores that are not finite.
    """
    taken, hits = _cumulative(scores, positives)
    if positives.all() or not positives.any():
        return math.nan
    misses = np.diff(taken - hits, prepend=0)
    tied = np.diff(hits, prepend=0)
    # Counted in halves, so that ties are whole numbers.
    won_halves = (misses * (2 * hits - tied)).sum()
    return float(won_halves / (2 * hits[-1] * misses.sum()))


def d_prime(auc: float) -> float:
    """Distance between two unit normal distributions with this AUC: sqrt(2) * Phi^-1(AUC).

    Returns:
        Infinite where the AUC is 0 or 1, NaN where it is NaN.
    """
    if not 0 < auc < 1:
        return {0.0: -math.inf, 1.0: math.inf}.get(auc, math.nan)
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


def _cumulative(scores: Scores, positives: Positives) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clips and positives at or above each distinct score, best first."""
    _check(scores, positives)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return ends + 1, np.cumsum(positives[order], dtype=np.int64)[ends]


def _check(scores: Scores, positives: Positives) -> None:
    if scores.shape != positives.shape or scores.size == 0:
        raise DataError(f"scores {scores.shape} and labels {positives.shape} must have one shape, not empty")
    if not np.isfinite(scores).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite")
