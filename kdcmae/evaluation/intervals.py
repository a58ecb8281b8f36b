"""95 % confidence intervals of metrics over clips."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.evaluation.bootstrap import clip_weights, weighted_map
from kdcmae.evaluation.metrics import mean_average_precision

__all__ = ["Interval", "mean_average_precision_interval", "share_interval"]

Interval = tuple[float, float]
"""Lower and upper end."""

_Z = 1.96  # standard deviations to either side that hold 95 % of a normal distribution
_RESAMPLES = (40, 200)  # fewest, for a deviation within a tenth, and most


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
    value = mean_average_precision(scores, positives)
    if math.isnan(value):
        return math.nan, math.nan
    resampled = weighted_map(scores, positives, clip_weights(positives, _RESAMPLES, seed=seed))
    half = _Z * float(np.nanstd(resampled))
    return max(0.0, value - half), min(1.0, value + half)
