"""What a model loses against a reference model on the same clips, with its 95 % interval.

Both models answer the same clips, and mostly err on the same ones. Resampling clips, rather than the answers of each
model, keeps that pairing: the interval is that of the difference, which is far narrower than the difference of two
intervals.

Single-label models (softmax) are measured in top-1, multi-label ones (sigmoid) in mAP, as they are published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.evaluation.bootstrap import clip_weights, weighted_map
from kdcmae.evaluation.metrics import Positives, Scores, correctness, mean_average_precision
from kdcmae.runtime.scores import Scores as Kind

__all__ = ["CONFIDENCE", "Loss", "Metric", "mean_interval", "metric_of", "paired_loss", "unseen_loss"]

Metric = Literal["top-1", "mAP"]

CONFIDENCE = 0.95
"""Of the intervals."""

_RESAMPLES = 10_000
_MAP_RESAMPLES = (200, 1000)  # the fewest and the most


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Loss of one model against another, in per cent and percentage points.

    Args:
        metric: ``top-1`` or ``mAP``.
        clips: number of clips that both answered.
        reference, other: score of each model.
        low, high: ends of the 95 % interval of the loss.
    """

    metric: Metric
    clips: int
    reference: float
    other: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """Percentage points lost."""
        return self.reference - self.other

    def __str__(self) -> str:
        return f"{self.points:.2f} percentage points (95 % interval {self.low:.2f} to {self.high:.2f})"

    def clips_needed(self, limit: float) -> int | None:
        """About how many clips would show that at most ``limit`` points are lost, if the measured loss is exact.

        The interval narrows with the square root of the clips; if no answer changes, it follows
        :func:`unseen_loss`. None if the loss is larger than the limit.
        """
        if self.high <= limit:
            return self.clips
        if self.points >= limit:
            return None
        if self.low == self.points:
            return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-limit / 100))
        return math.ceil(self.clips * ((self.high - self.points) / (limit - self.points)) ** 2)


def metric_of(kind: Kind) -> Metric:
    """The metric of a model with these scores."""
    return "top-1" if kind == "softmax" else "mAP"


def paired_loss(metric: Metric, reference: Scores, other: Scores, positives: Positives, *, seed: int = 0) -> Loss:
    """Measure two models on the same clips.

    Args:
        reference, other: (N, C) scores or logits of the two.
        positives: (N, C) bool; each clip has a label.
        seed: of the resampling; equal inputs give equal intervals.

    Raises:
        DataError: shapes that differ, scores that are not finite, or a clip without a label.
    """
    if not positives.any(axis=1).all():
        raise DataError(f"{np.count_nonzero(~positives.any(axis=1))} of {len(positives)} clips have no label")
    if metric == "top-1":
        right = [100 * correctness(scores, positives) for scores in (reference, other)]
        values = [float(answers.mean()) for answers in right]
        lost = right[0] - right[1]
        low, high = mean_interval(lost, seed=seed)
    else:
        values = [100 * mean_average_precision(scores, positives) for scores in (reference, other)]
        lost = _map_losses(reference, other, positives, seed)
        low, high = _ends(lost)
    if lost.max() <= 0:  # a resample of clips without a lost answer has none either
        high = max(high, unseen_loss(len(positives)))
    return Loss(metric=metric, clips=len(positives), reference=values[0], other=values[1], low=low, high=high)


def unseen_loss(clips: int) -> float:
    """Upper bound of the percentage of lost answers if none of these clips lost its answer: the rule of three, 3/n.

    Of an mAP, it bounds what clips lose that would lose all of their own precision.

    Source: Hanley and Lippman-Hand, If nothing goes wrong, is everything all right? (JAMA 1983).
    """
    return 100 * (1 - (1 - CONFIDENCE) ** (1 / clips))


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean over clips.

    Args:
        values: (N,), one per clip; few distinct values, such as 1 where only the reference is right, -1 where only the
            other model is, else 0.
    """
    # A resample is a multinomial over the kinds: its mean only needs their counts.
    kinds, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=_RESAMPLES)
    return _ends(drawn @ kinds / len(values))


def _map_losses(reference: Scores, other: Scores, positives: Positives, seed: int) -> NDArray[np.float64]:
    """Points of mAP lost in each resample of the clips."""
    weights = clip_weights(positives, _MAP_RESAMPLES, seed=seed)  # both models get the same clips
    ours, theirs = (weighted_map(scores, positives, weights) for scores in (reference, other))
    return 100 * (ours - theirs)


def _ends(resampled: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return float(low), float(high)
