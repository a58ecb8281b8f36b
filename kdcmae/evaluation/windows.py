"""Scores of one clip's windows: the clip is read, prepared and classified piece by piece, however long it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.broken import clip_boundary
from kdcmae.errors import KdcmaeError
from kdcmae.media.clip_windows import ClipWindows
from kdcmae.media.windows import Windowing
from kdcmae.predictors import ModelFacts, Predictor, batched_logits
from kdcmae.runtime.scores import scores

__all__ = ["Progress", "ScoredClip", "score_clip", "windowing_of"]

Progress = Callable[[int, int], None]
"""Called with the number of finished windows and of all windows."""

_ROWS_AT_ONCE = 16  # rows per call of the model; more save no time and need more memory


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
            top: how many.
        """
        chosen = scores.argsort()[::-1][:top]
        return [{"label": self.labels[number], "score": float(scores[number])} for number in chosen]


def windowing_of(facts: ModelFacts, window_s: float | None = None, hop_s: float | None = None) -> Windowing:
    """The windows that a model scores of a clip.

    Args:
        facts: of the model.
        window_s: seconds of a window; None for the longest that the model takes.
        hop_s: seconds from one window to the next; None for half a window.

    Raises:
        ConfigError: the model does not take such a window, or the hop is longer than a window or too short.
    """
    preprocessing = facts.preprocessing
    return Windowing.of(
        window_s, hop_s, longest=preprocessing.audio_samples, sample_rate_hz=preprocessing.sample_rate_hz
    )


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
        path: the clip.
        windowing: in samples at 16 kHz.
        frame_numbers: which of each window's ten frames to use; their scores are averaged.
        progress: called before the first window, and after each.

    Raises:
        BrokenClipError: the clip cannot be used.
        KdcmaeError: the model failed.
    """
    facts = predictor.facts
    start, model_s = time.perf_counter(), 0.0
    spans: list[tuple[float, float]] = []
    scored: list[NDArray[np.float64]] = []
    waiting: list[dict[str, NDArray[Any]]] = []
    rows = len(frame_numbers)
    at_once = max(1, min(_ROWS_AT_ONCE, facts.batch[1]) // rows)
    with clip_boundary(str(path)):
        windows = ClipWindows(path, facts.modality, frame_numbers, windowing, mono=facts.preprocessing.mono)
        arriving = iter(windows)
    progress(0, len(windows))
    while True:
        with clip_boundary(str(path)):
            window = next(arriving, None)
            if window is not None:
                spans.append((window.start_s, window.end_s))
                waiting.append(_repeated(predictor.prepare(window.waveform, window.frames), rows))
        if waiting and (window is None or len(waiting) == at_once):
            began = time.perf_counter()
            scored.append(_scores(predictor, waiting, path))
            model_s += time.perf_counter() - began
            waiting = []
        if window is None:
            break
        progress(len(spans), len(windows))
    return ScoredClip(
        path=path,
        labels=facts.labels,
        spans=tuple(spans),
        scores=np.concatenate(scored),
        decode_ms=round(1000 * (time.perf_counter() - start - model_s), 3),
        model_ms=round(1000 * model_s, 3),
    )


def _repeated(inputs: dict[str, NDArray[Any]], rows: int) -> dict[str, NDArray[Any]]:
    """As many rows of each input as there are frames; an input without frames has a single row."""
    return {name: array if len(array) == rows else array.repeat(rows, axis=0) for name, array in inputs.items()}


def _scores(predictor: Predictor, windows: Sequence[dict[str, NDArray[Any]]], path: Path) -> NDArray[np.float64]:
    """(windows, classes), averaged over the frames of each."""
    inputs = {name: np.concatenate([window[name] for window in windows]) for name in windows[0]}
    logits = batched_logits(predictor, inputs)
    if not np.isfinite(logits).all():
        raise KdcmaeError(f"{predictor.facts.name} gave logits that are not finite for {path}")
    by_frame = scores(logits, predictor.facts.scores)
    return by_frame.reshape(len(windows), -1, by_frame.shape[-1]).mean(axis=1)
