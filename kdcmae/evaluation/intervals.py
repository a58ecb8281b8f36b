"""95 % intervals of measures over clips: how far another set of as many clips could have moved them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "mean_average_precision_interval", "share_interval"]

Interval = tuple[float, float]
"""Lower and upper end."""

_Z = 1.96  # standard deviations to either side that hold 95 % of a normal distribution
_RESAMPLES = (40, 200)  # at least, so that their deviation is known to a tenth, and at most
_WORK = 4e8  # clips x classes x resamples: some seconds on one core


def share_interval(share: float, clips: int) -> Interval:
    """Wilson's interval of a share of clips.

    Args:
        share: in [0, 1]; NaN gives NaN.
        clips: how many, at least one.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (JASA 1927).
    """
    if math.isnan(share):
        return math.nan, math.nan
    centre = (share + _Z**2 / (2 * clips)) / (1 + _Z**2 / clips)
    half = _Z * math.sqrt(share * (1 - share) / clips + _Z**2 / (4 * clips**2)) / (1 + _Z**2 / clips)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_average_precision_interval(
    scores: NDArray[np.floating[Any]], positives: NDArray[np.bool_], *, seed: int = 0
) -> Interval:
    """Interval of the macro average precision, from its deviation over bootstrap samples of the clips.

    Args:
        scores: (N, C), finite.
        positives: (N, C) bool.
        seed: of the samples.

    Returns:
        The measured value less and plus 1.96 deviations, within [0, 1]; NaN where no clip has a class.
    """
    clips, classes = scores.shape
    samples = int(np.clip(_WORK / scores.size, *_RESAMPLES))
    rng = np.random.default_rng(seed)
    counts = np.ones((clips, 1 + samples), dtype=np.uint8)  # the first column is the measured set itself
    for sample in range(1, 1 + samples):
        counts[:, sample] = np.bincount(rng.integers(clips, size=clips), minlength=clips)
    precisions = [
        _average_precisions(scores[:, index], positives[:, index], counts)
        for index in range(classes)
        if positives[:, index].any()
    ]
    if not precisions:
        return math.nan, math.nan
    value, *resampled = np.nanmean(np.stack(precisions), axis=0).tolist()
    half = _Z * float(np.std(resampled))
    return max(0.0, value - half), min(1.0, value + half)


def _average_precisions(
    scores: NDArray[np.floating[Any]], has: NDArray[np.bool_], counts: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Average precision of one class in each of R samples, where clip n counts ``counts[n, r]`` times."""
    order = np.argsort(-scores, kind="stable")
    group = np.append(0, np.cumsum(np.diff(scores[order]) != 0))  # clips of one score count together
    found = np.flatnonzero(has[order])
    # Precision changes the sum at groups with a positive alone: between their ends, clips are only counted.
    groups, first = np.unique(group[found], return_index=True)
    ends = np.searchsorted(group, groups, side="right")
    sorted_counts = counts[order]
    taken = np.add.reduceat(sorted_counts[: ends[-1]], np.append(0, ends[:-1]), axis=0, dtype=np.int64).cumsum(axis=0)
    gained = np.add.reduceat(sorted_counts[found], first, axis=0, dtype=np.int64)
    hits = gained.cumsum(axis=0)
    sums = np.divide(hits * gained, taken, out=np.zeros(hits.shape), where=taken > 0).sum(axis=0)
    return np.divide(sums, hits[-1], out=np.full(len(sums), math.nan), where=hits[-1] > 0)
