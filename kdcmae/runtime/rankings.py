"""Rankings of classes, clips or neighbours, compared with a reference: the share of pairs in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Float64

__all__ = ["Ranking", "neighbour_agreement", "order_agreement"]

_BEST = 10  # number of best entries of each ranking that are compared with all others
_NEIGHBOURS = 8  # smallest number of samples whose neighbours are worth ranking


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Agreement with the order of a reference.

    Args:
        pairs: number of pairs that the reference separates by more than its noise; 0 if there is nothing to rank.
        agreeing: share of them in the same order; 1 if there are none. A pair of equal values counts half.
    """

    pairs: int
    agreeing: float


def order_agreement(actual: NDArray[Any], expected: NDArray[Any], *, noise: NDArray[Any]) -> Ranking:
    """Agreement of the order in each row, over the pairs of the reference's ten best entries with every other entry.

    Args:
        actual, expected: (rows, n).
        noise: (rows,) difference below which the reference's order is random.
    """
    count = min(_BEST, expected.shape[1])
    best = np.argsort(-expected, axis=1, kind="stable")[:, :count]
    pairs, agreeing = 0, 0.0
    for place in range(count):  # one entry against all at a time, so that arrays stay as small as the outputs
        chosen = best[:, place : place + 1]
        reference = np.take_along_axis(expected, chosen, axis=1) - expected
        difference = np.take_along_axis(actual, chosen, axis=1) - actual
        clear = reference > noise[:, None]  # each pair once, as a difference from its better entry
        pairs += int(clear.sum())
        agreeing += float((clear & (difference > 0)).sum() + 0.5 * (clear & (difference == 0)).sum())
    return Ranking(pairs=pairs, agreeing=agreeing / pairs if pairs else 1.0)


def neighbour_agreement(actual: Float64, expected: Float64, tie: float) -> Ranking | None:
    """Agreement of the order of each sample's neighbours by cosine; None for fewer than eight samples.

    Args:
        actual, expected: (N, features).
        tie: noise, relative to the spread of a sample's cosines.
    """
    if len(expected) < _NEIGHBOURS:
        return None
    cosines, reference = (_similarities(array) for array in (actual, expected))
    spread = reference.std(axis=1)
    return order_agreement(cosines, reference, noise=tie * spread + 2.0 * float(np.finfo(np.float32).eps))


def _similarities(features: Float64) -> Float64:
    """(N, N - 1) cosines to the other samples."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths, lengths, 1.0)
    off_diagonal = ~np.eye(len(features), dtype=bool)
    cosines: Float64 = (unit @ unit.T)[off_diagonal].reshape(len(features), -1)
    return cosines
