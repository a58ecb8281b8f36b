"""Exact ranks of every clip's partner among N clips, in both directions, in little memory.

One product of N x N cosines serves both directions, a tile at a time. A tile is computed in the fastest precision whose
error decides almost all of its comparisons: bf16 where the CPU multiplies it, then float32. The comparisons that the
error leaves open are made again in float64; where they are many, the whole tile is. So the ranks are those of float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcmae.errors import DataError
from kdcmae.runtime.arrays import Float32
from kdcmae.runtime.cpu import this_cpu

__all__ = ["CLIPS_PER_CHUNK", "Directions", "partner_ranks"]

CLIPS_PER_CHUNK = 1024
"""Edge of a tile: 4 MB of cosines, which stay in a CPU's cache from one pass over them to the next."""

# Precision of cosines of float32 features; closer values are ties.
_RESOLUTION = 1e-6

# Share of open comparisons above which it is faster to compute the tile again than these pairs alone.
_MOST_OPEN = 1 / 256
_PAIRS_AT_ONCE = 512

# Errors of rounding in a sum of n terms stay below this multiple of sqrt(n) of one term's (Higham and Mary, "A new
# approach to probabilistic rounding error analysis", 2019), but for one of 1e9 sums; and to change a count, such a sum
# must also lie right beside the margin.
_ERROR_FACTOR = 6

_CLIPS_WORTH_BF16 = 2048  # below, preparing costs more than it saves


class Directions:
    """Features as directions of length 1, made a block at a time.

    Args:
        features: (N, D).
        name: of the modality, for errors.

    Raises:
        DataError: features that are not finite, or without direction (all zero).
    """

    def __init__(self, features: Float32, name: str) -> None:
        self._features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        blocks = self._features.split(CLIPS_PER_CHUNK)
        self._lengths = torch.cat([torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks])
        unusable = ~self._lengths.isfinite() | (self._lengths == 0)
        if unusable.any():
            raise DataError(f"the {name} features of {unusable.sum()} of {len(features)} clips are zero or not finite")

    def __len__(self) -> int:
        return len(self._features)

    @property
    def width(self) -> int:
        """Number of features."""
        return self._features.shape[1]

    def single(self, rows: slice) -> Tensor:
        """(rows, D) float32 directions."""
        return self._features[rows] / self._lengths[rows, None].float()

    def double(self, rows: slice | list[int]) -> Tensor:
        """(rows, D) float64 directions."""
        return self._features[rows].double().div_(self._lengths[rows, None])

    def paired(self, rows: Tensor, other: Directions, others: Tensor, dtype: torch.dtype) -> Tensor:
        """(pairs,) float64 cosines of rows of this with rows of another, computed in a dtype."""
        products = torch.linalg.vecdot(self._features[rows].to(dtype), other._features[others].to(dtype))
        return products.double() / (self._lengths[rows] * other._lengths[others])


def partner_ranks(
    audio: Directions, video: Directions, *, chunk: int = CLIPS_PER_CHUNK, on_chunk: Callable[[], object] = lambda: None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rank of each clip's picture for its sound, and of its sound for its picture; 1 for the best.

    Args:
        audio, video: of the same clips.
        chunk: edge of a tile.
        on_chunk: called when a chunk of sounds has been compared with all pictures, ``ceil(N / chunk)`` times.

    Returns:
        (N,) each: one more than the number of other clips that are no further away, so a tie counts against the
        partner.
    """
    tiles = _Tiles(audio, video)
    ranks = torch.zeros(2, len(audio), dtype=torch.int64)
    for rows in _parts(len(audio), chunk):
        for columns in _parts(len(audio), chunk):
            by_row, by_column = tiles.counts(rows, columns)
            ranks[0, rows] += by_row
            ranks[1, columns] += by_column
        on_chunk()
    return ranks[0].numpy(), ranks[1].numpy()


def _parts(count: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


class _Tiles:
    """Counts cosines that reach the partner's, in the fastest precision that has decided the tiles so far."""

    def __init__(self, audio: Directions, video: Directions) -> None:
        self._audio, self._video = audio, video
        everything = torch.arange(len(audio))
        partners = [audio.paired(part, video, part, torch.float64) for part in everything.split(_PAIRS_AT_ONCE)]
        self._thresholds = torch.cat(partners) - _RESOLUTION
        self._coarse: tuple[_Coarse, _Coarse] | None = None
        if len(audio) >= _CLIPS_WORTH_BF16 and this_cpu().multiplies("bf16"):
            rotation = _random_rotation(audio.width)
            self._coarse = _Coarse(audio, rotation), _Coarse(video, rotation)
        self._fine = True
        self._rounding = _ERROR_FACTOR * audio.width**0.5 * torch.finfo(torch.float32).eps / 2  # of a float32 product

    def counts(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """(rows,) pictures at least as near to each sound as its own, and (columns,) sounds as near to each picture."""
        if self._coarse is not None:
            queries, keys = self._coarse
            with _products_in_bf16():
                cosines = queries.values[rows].float() @ keys.values[columns].float().T
            lost = math.hypot(queries.lost, keys.lost) / self._audio.width**0.5
            counts = self._decided(cosines, rows, columns, _ERROR_FACTOR * lost + 3 * self._rounding)
            if counts is not None:
                return counts
            self._coarse = None  # other tiles of these features would be as undecided
        if self._fine:
            cosines = self._audio.single(rows) @ self._video.single(columns).T
            counts = self._decided(cosines, rows, columns, 2 * self._rounding)
            if counts is not None:
                return counts
            self._fine = False
        cosines = self._audio.double(rows) @ self._video.double(columns).T
        return (cosines >= self._thresholds[rows, None]).sum(1), (cosines >= self._thresholds[columns]).sum(0)

    def _decided(self, cosines: Tensor, rows: slice, columns: slice, error: float) -> tuple[Tensor, Tensor] | None:
        """The counts of a tile; None if too many cosines are within the error of a threshold."""
        first, counts = torch.tensor([rows.start, columns.start]), []
        for axis, thresholds in enumerate((self._thresholds[rows, None], self._thresholds[None, columns])):
            # Comparisons that give floats, and their sums, are several times as fast as those that give booleans.
            possible, certain = torch.empty_like(cosines), torch.empty_like(cosines)
            torch.ge(cosines, (thresholds - error).float(), out=possible)
            torch.ge(cosines, (thresholds + error).float(), out=certain)
            count = certain.sum(1 - axis).long()
            open_pairs = _nonzero(possible.sub_(certain))
            if len(open_pairs) > max(len(cosines), _MOST_OPEN * cosines.numel()):
                return None
            for places in open_pairs.split(_PAIRS_AT_ONCE):
                reached = self._reached(places + first, thresholds.flatten()[places[:, axis]])
                count.index_add_(0, places[:, axis], reached.long())
            counts.append(count)
        return counts[0], counts[1]

    def _reached(self, pairs: Tensor, thresholds: Tensor) -> Tensor:
        """(pairs,) whether cosines reach thresholds."""
        sounds, pictures = pairs.unbind(1)
        cosines = self._audio.paired(sounds, self._video, pictures, torch.float32)
        close = ((cosines - thresholds).abs() <= 2 * self._rounding).nonzero().flatten()
        cosines[close] = self._audio.paired(sounds[close], self._video, pictures[close], torch.float64)
        return cosines >= thresholds


class _Coarse:
    """Directions in bf16 after a random rotation, which keeps cosines and spreads any direction over all features.

    So errors of rounding add up as independent ones do, whatever the features: a cosine's error has the standard
    deviation ``lost / sqrt(D)`` of each side.
    """

    def __init__(self, directions: Directions, rotation: Tensor) -> None:
        self.values = torch.empty(len(directions), directions.width, dtype=torch.bfloat16)
        self.lost = 0.0  # length of the longest difference between a direction and its bf16 value
        for part in _parts(len(directions), CLIPS_PER_CHUNK):
            rotated = directions.single(part) @ rotation
            self.values[part] = rotated.bfloat16()
            self.lost = max(self.lost, float((rotated - self.values[part]).norm(dim=1).max()))


def _random_rotation(width: int) -> Tensor:
    noise = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(noise)[0].float()


def _nonzero(tile: Tensor) -> Tensor:
    """As ``tile.nonzero()``, and faster for a tile most of whose rows are zero."""
    rows = tile.sum(1).nonzero().flatten()
    places = tile[rows].nonzero()
    places[:, 0] = rows[places[:, 0]]
    return places


@contextmanager
def _products_in_bf16() -> Iterator[None]:
    """Products of float32 matrices are computed from bf16 values, with float32 sums."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # which PyTorch adds when it runs
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
