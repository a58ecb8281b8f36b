"""Rankings: how much of the order that a reference gives to classes, clips or neighbours another model keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Float64

__all__ = ["Ranking", "kept_neighbours", "kept_order"]

_BEST = 10  # of each ranking, how many are held against all others
_NEIGHBOURS = 8  # samples below which features have no neighbours worth ranking


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How much of the reference's order is kept.

    Args:
        pairs: that the reference separates by more than its noise; 0 where there is nothing to rank.
        kept: the share of them in the same order, one if there are none; what is equal is half kept.
    """

    pairs: int
    kept: float


def kept_order(actual: NDArray[Any], expected: NDArray[Any], *, noise: NDArray[Any]) -> Ranking:
    """How many pairs of each row keep their order: those of the reference's ten best entries with every other.

    Args:
        actual, expected: (rows, n).
        noise: (rows,) difference below which the reference's order is chance.
    """
    count = min(_BEST, expected.shape[1])
    best = np.argsort(-expected, axis=1, kind="stable")[:, :count]
    pairs, kept = 0, 0.0
    for place in range(count):  # one entry against all at a time, so that memory stays that of the outputs
        chosen = best[:, place : place + 1]
        wanted = np.take_along_axis(expected, chosen, axis=1) - expected
        found = np.take_along_axis(actual, chosen, axis=1) - actual
        clear = wanted > noise[:, None]  # each pair once: from the better entry's side
        pairs += int(clear.sum())
        kept += float((clear & (found > 0)).sum() + 0.5 * (clear & (found == 0)).sum())
    return Ranking(pairs=pairs, kept=kept / pairs if pairs else 1.0)


def kept_neighbours(actual: Float64, expected: Float64, tie: float) -> Ranking | None:
    """How much of the order of each sample's neighbours by cosine is kept; None of fewer than eight samples.

    Args:
        actual, expected: (N, features).
        tie: noise, relative to how far the cosines of a sample are apart.
    """
    if len(expected) < _NEIGHBOURS:
        return None
    ours, theirs = (_similarities(array) for array in (actual, expected))
    spread = theirs.std(axis=1)
    return kept_order(ours, theirs, noise=tie * spread + 2.0 * float(np.finfo(np.float32).eps))


def _similarities(features: Float64) -> Float64:
    """(N, N - 1) cosines to the other samples."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths, lengths, 1.0)
    others = ~np.eye(len(features), dtype=bool)
    found: Float64 = (unit @ unit.T)[others].reshape(len(features), -1)
    return found
