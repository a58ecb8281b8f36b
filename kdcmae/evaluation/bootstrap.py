"""The mAP of bootstrap samples of clips, from which its intervals are computed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kdcmae.evaluation.metrics import Positives, Scores

__all__ = ["clip_weights", "weighted_map"]

_WORK = 1.5e9  # clips times labels times samples: less than a second of one core
_AT_ONCE = 512  # labels whose rankings are in memory at the same time


def clip_weights(positives: Positives, sets: tuple[int, int], *, seed: int = 0) -> NDArray[np.float32]:
    """How often each clip occurs in bootstrap samples.

    Args:
        positives: (N, C); more labels give fewer samples, because :func:`weighted_map` takes longer.
        sets: fewest and most samples.

    Returns:
        (B, N) whole numbers, each row adding up to N.
    """
    clips = len(positives)
    count = int(np.clip(_WORK / (clips * max(1, int(positives.sum()))), *sets))
    drawn = np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), size=count)
    return drawn.astype(np.float32)


def weighted_map(scores: Scores, positives: Positives, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mAP of weighted clips, for many weightings.

    Average precision is a mean over positives, of the precision among the clips that score no lower. Two matrix
    products count those clips for all weightings, a hundred times faster than sorting the clips for each.

    Args:
        scores: (N, C).
        positives: (N, C).
        weights: (B, N) whole numbers.

    Returns:
        (B,); a class without positives in a weighting does not count in it. NaN where no class has any.
    """
    classes, clips = np.nonzero(positives.T)  # of every positive, by class
    precise = np.empty((len(weights), len(clips)), np.float32)
    for start in range(0, len(clips), _AT_ONCE):
        chunk = slice(start, start + _AT_ONCE)
        rankings = scores[:, classes[chunk]]  # (N, P)
        no_lower = rankings >= rankings[clips[chunk], np.arange(rankings.shape[1])]
        taken = weights @ no_lower.astype(np.float32)
        hits = weights @ (no_lower & positives[:, classes[chunk]]).astype(np.float32)
        precise[:, chunk] = weights[:, clips[chunk]] * (
            hits / np.maximum(taken, 1)
        )  # avoids 0 / 0 where no clip is drawn
    if not clips.size:
        return np.full(len(weights), math.nan)
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    drawn = np.add.reduceat(weights[:, clips], starts, axis=1, dtype=np.float64)
    means = np.add.reduceat(precise, starts, axis=1, dtype=np.float64) / np.maximum(drawn, 1)
    counted = (drawn > 0).sum(axis=1)
    return np.divide(means.sum(axis=1), counted, out=np.full(len(weights), math.nan), where=counted > 0)
