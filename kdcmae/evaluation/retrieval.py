"""Retrieval: which clip's sound belongs to which clip's picture, by the cosine of pooled features (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128) and ``image`` (B, 3, S, S): numpy arrays or tensors on
the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.evaluation.partner_ranks import CLIPS_PER_CHUNK, Directions, partner_ranks
from kdcmae.predictors import AUDIO_FEATURES, VIDEO_FEATURES, Predictor, batched_outputs
from kdcmae.runtime.arrays import Float32

__all__ = [
    "CLIPS_PER_CHUNK",
    "Direction",
    "Features",
    "Ranks",
    "Retrieval",
    "best_answers",
    "extract_features",
    "rank_histogram",
    "ranks_of",
    "retrieve",
    "spread_queries",
    "summarize",
]

_RANKS = ((1, 1), (2, 5), (6, 10), (11, 100), (101, 1000), (1001, math.inf))

Ranks = Mapping[str, NDArray[np.int64]]
"""Rank of every clip's partner, 1 for the best, by direction: ``audio_to_video`` and ``video_to_audio``."""


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


def retrieve(features: Features) -> Retrieval:
    """Recall and median rank of every clip's partner among all clips; see :func:`ranks_of`.

    Raises:
        DataError: features that are not finite, or without direction (all zero).
    """
    return summarize(ranks_of(features))


def ranks_of(
    features: Features, *, chunk: int = CLIPS_PER_CHUNK, on_chunk: Callable[[], object] = lambda: None
) -> Ranks:
    """The rank of every clip's partner among all clips; a tie counts against it, so equal features retrieve nothing.

    Args:
        features: of at least one clip.
        chunk: clips compared with as many others at once; memory does not grow with N x N.
        on_chunk: called ``ceil(N / chunk)`` times.

    Raises:
        DataError: features that are not finite, or without direction (all zero).
    """
    ranks = partner_ranks(*_directions(features), chunk=chunk, on_chunk=on_chunk)
    return dict(zip(("audio_to_video", "video_to_audio"), ranks, strict=True))


def summarize(ranks: Ranks) -> Retrieval:
    """Recall and median rank in both directions, and their expectation for a random order."""
    clips = len(ranks["audio_to_video"])
    return Retrieval(
        clips=clips,
        audio_to_video=_direction(ranks["audio_to_video"]),
        video_to_audio=_direction(ranks["video_to_audio"]),
        chance=_direction(np.arange(1, clips + 1)),
    )


def rank_histogram(ranks: NDArray[np.int64]) -> dict[str, int]:
    """Number of clips by the rank of their partner, such as ``"2 to 5"``.

    Args:
        ranks: in one direction.
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
        ranks: in one direction.
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
    asked, keys = _directions(features) if direction == "audio_to_video" else reversed(_directions(features))
    wanted, starts = asked.double(list(queries)), range(0, len(keys), CLIPS_PER_CHUNK)
    parts = [(wanted @ keys.double(slice(start, start + CLIPS_PER_CHUNK)).T).numpy() for start in starts]
    return [_largest(row, best) for row in np.concatenate(parts, axis=1)]


def _largest(values: NDArray[np.float64], most: int) -> list[int]:
    """Places of the largest values, the largest first, and the first of equal ones."""
    most = min(most, len(values))
    places = np.flatnonzero(values >= np.partition(values, -most)[-most])
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")[:most]]]


def _directions(features: Features) -> tuple[Directions, Directions]:
    return Directions(features.audio, "audio"), Directions(features.video, "video")


def _direction(ranks: NDArray[np.int64]) -> Direction:
    return Direction(
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_5=float((ranks <= 5).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        median_rank=float(np.median(ranks)),
    )
