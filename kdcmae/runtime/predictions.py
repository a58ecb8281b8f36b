"""Logits of a clip to its best labels, and the results that an engine returns for files and streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import EngineError
from kdcmae.runtime.arrays import Float32, Float64
from kdcmae.runtime.scores import Scores, scores

__all__ = [
    "FileFeatures",
    "FilePredictions",
    "Prediction",
    "WindowFeatures",
    "WindowPredictions",
    "best",
    "clip_scores",
]


@dataclass(frozen=True)
class Prediction:
    """A class that a clip may belong to, and its probability."""

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class WindowPredictions:
    """The best labels of one window of a clip.

    Args:
        start_s, end_s: of the window in seconds, from the start of the clip's sound.
        predictions: best first.
    """

    start_s: float
    end_s: float
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, kw_only=True)
class FilePredictions:
    """The best labels of a media file.

    Args:
        predictions: those of the mean of the scores of all windows, best first.
        windows: in order; a file that is no longer than a window has one.
    """

    predictions: tuple[Prediction, ...]
    windows: tuple[WindowPredictions, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowFeatures:
    """The features of one window of a clip.

    Args:
        start_s, end_s: of the window in seconds, from the start of the clip's sound.
        features: (D,) by the name of the output.
    """

    start_s: float
    end_s: float
    features: Mapping[str, Float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class FileFeatures:
    """The features of a media file.

    Args:
        features: (D,) by the name of the output, the mean over all windows.
        windows: in order; a file that is no longer than a window has one.
    """

    features: Mapping[str, Float32]
    windows: tuple[WindowFeatures, ...]


def clip_scores(logits: NDArray[Any], kind: Scores, name: str) -> Float64:
    """(classes,) scores of one clip, the mean over its rows.

    Args:
        logits: (rows, ..., classes).
        kind: how logits become scores.
        name: of the model, for the error.

    Raises:
        EngineError: logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise EngineError(f"{name} gave logits that are not finite; run its self-test: kdcmae check")
    means: Float64 = scores(logits.reshape(-1, logits.shape[-1]), kind).mean(axis=0)
    return means


def best(likelihood: NDArray[Any], labels: Sequence[str], top: int) -> tuple[Prediction, ...]:
    """The labels with the highest scores, best first.

    Args:
        likelihood: (classes,) scores.
    """
    chosen = np.argsort(-likelihood, kind="stable")[:top]
    return tuple(Prediction(labels[number], float(likelihood[number])) for number in chosen)
