"""Logits to scores."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Float64

__all__ = ["Scores", "scores"]

Scores = Literal["softmax", "sigmoid"]


def scores(logits: NDArray[Any], kind: Scores) -> Float64:
    """Turn logits into probabilities, in float64.

    Args:
        logits: (..., classes).
        kind: ``softmax`` over the classes of a single-label model, ``sigmoid`` per class of a multi-label one.

    Returns:
        (..., classes), each in [0, 1].
    """
    wide = logits.astype(np.float64)
    if kind == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -wide))
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares: Float64 = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares
