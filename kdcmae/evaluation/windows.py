"""Scores of one clip's windows: the clip is read, prepared and classified piece by piece, however long it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.broken import clip_boundary
from kdcmae.media.windows import Windowing
from kdcmae.predictors import ModelFacts, Predictor
from kdcmae.runtime import media_files
from kdcmae.runtime.media_files import Progress
from kdcmae.runtime.predictions import best, clip_scores

__all__ = ["Progress", "ScoredClip", "score_clip", "windowing_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredClip:
    """Scores of a clip's windows.

    Args:
        path: of the clip.
        labels: class names.
        spans: start and end of each window in seconds.
        scores: (windows, classes).
        decode_ms: time to read and prepare the whole clip.
        model_ms: time that the model took.
    """

    path: Path
    labels: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    scores: NDArray[np.float64]
    decode_ms: float
    model_ms: float

    def best(self, scores: NDArray[np.floating[Any]], top: int) -> list[dict[str, Any]]:
        """The best labels and their scores, best first.

        Args:
            scores: (classes,).
        """
        return [{"label": label, "score": score} for label, score in map(astuple, best(scores, self.labels, top))]


def windowing_of(facts: ModelFacts, window_s: float | None = None, hop_s: float | None = None) -> Windowing:
    """The windows that a model scores of a clip; see :func:`kdcmae.runtime.media_files.windowing_of`."""
    return media_files.windowing_of(facts.preprocessing, window_s, hop_s)


def score_clip(
    predictor: Predictor,
    path: Path,
    windowing: Windowing,
    *,
    frame_numbers: Sequence[int],
    progress: Progress = lambda done, total: None,
) -> ScoredClip:
    """Scores of every window of a clip.

    Args:
        predictor: the model.
        windowing: in samples at 16 kHz.
        frame_numbers: which of each window's ten frames to use; their scores are averaged.
        progress: called before the first window, and after each.

    Raises:
        BrokenClipError: the clip cannot be used.
        KdcmaeError: the model failed.
    """
    facts, start = predictor.facts, time.perf_counter()
    windows = list(
        media_files.run_file(
            predictor,
            path,
            windowing,
            frame_numbers=frame_numbers,
            progress=progress,
            boundary=partial(clip_boundary, str(path)),
        )
    )
    model_s, logits = sum(window.model_s for window in windows), facts.outputs[0]
    return ScoredClip(
        path=path,
        labels=facts.labels,
        spans=tuple((window.start_s, window.end_s) for window in windows),
        scores=np.stack([clip_scores(window.outputs[logits], facts.scores, facts.name) for window in windows]),
        decode_ms=round(1000 * (time.perf_counter() - start - model_s), 3),
        model_ms=round(1000 * model_s, 3),
    )
