"""Retrieval: which clip's sound belongs to which clip's picture, by the cosine of pooled features (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128) and ``image`` (B, 3, S, S): numpy arrays or tensors on
the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.predictors import AUDIO_FEATURES, VIDEO_FEATURES, Predictor, batched_outputs
from kdcmae.runtime.arrays import Float32

__all__ = [
    "Direction",
    "Features",
    "Retrieval",
    "best_answers",
    "extract_features",
    "partner_ranks",
    "rank_histogram",
    "retrieve",
    "spread_queries",
]

_RANKS = ((1, 1), (2, 5), (6, 10), (11, 100), (101, 1000), (1001, math.inf))

# Precision of cosines of float32 features; closer values are ties.
_RESOLUTION = 1e-6


@dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of the same clips, row for row: (N, D) each."""

    audio: Float32
    video: Float32


@dataclass(frozen=True, kw_only=True)
class Direction:
    """How well one modality retrieves the other.

    Args:
        recall_at_1, recall_at_5, recall_at_10: share of clips whose partner is among the best 1, 5 and 10.
        median_rank: of the partner, 1 for the best.
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Both directions over one set of clips, and the expectation for a random order."""

    clips: int
    audio_to_video: Direction
    video_to_audio: Direction
    chance: Direction


def extract_features(predictor: Predictor, batches: Iterable[Mapping[str, Any]]) -> Features:
    """Run a model over clips.

    Args:
        predictor: opened for its features.
        batches: of clips.

    Raises:
        DataError: no clips.
        KdcmaeError: the model failed.
    """
    parts = [
        batched_outputs(predictor, {name: np.asarray(batch[name]) for name in ("audio", "image")}) for batch in batches
    ]
    if not parts:
        raise DataError("no clips to evaluate")
    return Features(*(np.concatenate([part[name] for part in parts]) for name in (AUDIO_FEATURES, VIDEO_FEATURES)))


def retrieve(features: Features, *, chunk: int = 1024) -> Retrieval:
    """Rank every clip's partner among all clips, in both directions.

    Args:
        features: of at least one clip.
        chunk: queries compared with all clips at once; memory grows with ``chunk`` x N, not with N x N.

    Returns:
        Recall and median rank; a tie counts against the partner, so equal features for all clips retrieve nothing.

    Raises:
        DataError: features that are not finite, or without direction (all zero).
    """
    ranks = partner_ranks(features, chunk=chunk)
    return Retrieval(
        clips=len(features.audio),
        audio_to_video=_direction(ranks["audio_to_video"]),
        video_to_audio=_direction(ranks["video_to_audio"]),
        chance=_direction(np.arange(1, len(features.audio) + 1)),
    )


def partner_ranks(features: Features, *, chunk: int = 1024) -> dict[str, NDArray[np.int64]]:
    """The rank of every clip's partner among all clips, 1 for the best, by direction.

    Args:
        features: as for :func:`retrieve`.
        chunk: queries compared with all clips at once.

    Raises:
        DataError: features that are not finite, or without direction (all zero).
    """
    return {name: _partner_ranks(*sides, chunk) for name, sides in _queries_and_keys(features).items()}


def rank_histogram(ranks: NDArray[np.int64]) -> dict[str, int]:
    """Number of clips by the rank of their partner, such as ``"2 to 5"``.

    Args:
        ranks: of :func:`partner_ranks`.
    """
    counts = {}
    for low, high in _RANKS:
        if low <= len(ranks):
            name = f"{low} to {high}" if high > low else str(low)
            counts[name if math.isfinite(high) else f"{low} or worse"] = int(((ranks >= low) & (ranks <= high)).sum())
    return counts


def spread_queries(ranks: NDArray[np.int64], most: int) -> list[int]:
    """Queries evenly spread from the best rank to the worst.

    Args:
        ranks: of :func:`partner_ranks`.
        most: maximum number of queries.
    """
    order = np.argsort(ranks, kind="stable")
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(np.int64)
    return [int(query) for query in order[places]]


def best_answers(features: Features, direction: str, queries: Sequence[int], best: int) -> list[list[int]]:
    """The nearest clips for some queries, the nearest first.

    Args:
        features: as for :func:`retrieve`.
        direction: ``audio_to_video`` or ``video_to_audio``.
        queries: numbers of clips.
        best: number of clips per query.
    """
    asked, keys = _queries_and_keys(features)[direction]
    order = np.argsort(-(asked[list(queries)] @ keys.T), axis=1, kind="stable")
    return [[int(clip) for clip in row[:best]] for row in order]


def _queries_and_keys(features: Features) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Directions of length 1, by direction of the search."""
    audio, video = _directions(features.audio, "audio"), _directions(features.video, "video")
    return {"audio_to_video": (audio, video), "video_to_audio": (video, audio)}


def _directions(features: Float32, name: str) -> NDArray[np.float64]:
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unusable = ~np.isfinite(lengths) | (lengths == 0)
    if unusable.any():
        raise DataError(f"the {name} features of {unusable.sum()} of {len(wide)} clips are zero or not finite")
    return wide / lengths


def _partner_ranks(queries: NDArray[np.float64], keys: NDArray[np.float64], chunk: int) -> NDArray[np.int64]:
    """Rank of key i for query i: one more than the other keys that are no further away."""
    ranks = []
    for start in range(0, len(queries), chunk):
        cosines = queries[start : start + chunk] @ keys.T
        partners = cosines[np.arange(len(cosines)), start + np.arange(len(cosines))]
        # The count includes the partner itself, so it is the rank.
        ranks.append(np.count_nonzero(cosines >= partners[:, None] - _RESOLUTION, axis=1))
    return np.concatenate(ranks)


def _direction(ranks: NDArray[np.int64]) -> Direction:
    return Direction(
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_5=float((ranks <= 5).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        median_rank=float(np.median(ranks)),
    )
