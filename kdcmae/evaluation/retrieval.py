"""Retrieval: which clip's sound belongs to which clip's picture, by the cosine of pooled features (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128) and ``image`` (B, 3, S, S): numpy arrays or tensors on
the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError, EngineError
from kdcmae.predictors import in_batches

if TYPE_CHECKING:
    from kdcmae.pretraining import KDCMAE
    from kdcmae.runtime import Engine

__all__ = [
    "AUDIO_FEATURES",
    "VIDEO_FEATURES",
    "CheckpointFeatures",
    "Direction",
    "EngineFeatures",
    "FeatureModel",
    "Features",
    "Retrieval",
    "extract_features",
    "retrieve",
]

AUDIO_FEATURES, VIDEO_FEATURES = "audio_features", "video_features"
"""The outputs (batch, D) of an engine that retrieval can use."""

# Float32 features give cosines no better than this; nearer ones are ties.
_RESOLUTION = 1e-6

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of the same clips, row for row: (N, D) each."""

    audio: Float32
    video: Float32


@dataclass(frozen=True, kw_only=True)
class Direction:
    """How well one modality finds the other.

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
    """Both directions over one set of clips, and what a random order would give."""

    clips: int
    audio_to_video: Direction
    video_to_audio: Direction
    chance: Direction


class FeatureModel(Protocol):
    """A model that turns prepared inputs into pooled features."""

    def features(self, audio: Float32, image: Float32) -> Features:
        """(B, T, 128) and (B, 3, S, S) -> (B, D) each."""


class CheckpointFeatures:
    """The unmasked features of a pretraining model, averaged over tokens, on whatever device it is."""

    def __init__(self, model: KDCMAE) -> None:
        self.model = model

    def features(self, audio: Float32, image: Float32) -> Features:
        import torch

        device = self.model.pos_embed_a.device
        with torch.inference_mode():
            tokens = self.model.forward_features(torch.from_numpy(audio).to(device), torch.from_numpy(image).to(device))
        return Features(*(part.mean(dim=1).cpu().numpy() for part in tokens))


class EngineFeatures:
    """The features of a compiled engine.

    Raises:
        EngineError: the engine has no feature outputs.
    """

    def __init__(self, engine: Engine) -> None:
        outputs = [spec.name for spec in engine.manifest.outputs]
        if not {AUDIO_FEATURES, VIDEO_FEATURES} <= set(outputs):
            raise EngineError(
                f"engine {engine.folder} gives only {', '.join(outputs)}; retrieval needs {AUDIO_FEATURES} and "
                f"{VIDEO_FEATURES}: compile the pretraining checkpoint with --task features"
            )
        self.engine = engine

    def features(self, audio: Float32, image: Float32) -> Features:
        batch = self.engine.manifest.batch
        outputs = in_batches(
            lambda feed: self.engine.infer(dict(feed)), {"audio": audio, "image": image}, (batch.min, batch.max)
        )
        return Features(outputs[AUDIO_FEATURES], outputs[VIDEO_FEATURES])


def extract_features(model: FeatureModel, batches: Iterable[Mapping[str, Any]]) -> Features:
    """Run a model over clips.

    Args:
        model: a checkpoint or an engine.
        batches: of clips.

    Raises:
        DataError: no clips.
        KdcmaeError: the model failed.
    """
    parts = [model.features(np.asarray(batch["audio"]), np.asarray(batch["image"])) for batch in batches]
    if not parts:
        raise DataError("no clips to evaluate")
    return Features(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("audio", "video")))


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
    audio, video = _directions(features.audio, "audio"), _directions(features.video, "video")
    return Retrieval(
        clips=len(audio),
        audio_to_video=_direction(_partner_ranks(audio, video, chunk)),
        video_to_audio=_direction(_partner_ranks(video, audio, chunk)),
        chance=_direction(np.arange(1, len(audio) + 1)),
    )


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
        # The partner itself is among those counted, and stands for the one.
        ranks.append(np.count_nonzero(cosines >= partners[:, None] - _RESOLUTION, axis=1))
    return np.concatenate(ranks)


def _direction(ranks: NDArray[np.int64]) -> Direction:
    return Direction(
        recall_at_1=float((ranks <= 1).mean()),
        recall_at_5=float((ranks <= 5).mean()),
        recall_at_10=float((ranks <= 10).mean()),
        median_rank=float(np.median(ranks)),
    )
