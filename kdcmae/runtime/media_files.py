"""A media file through a model: read, prepared and run window by window, however long it is.

Needs PyAV to read files, which nothing else of the runtime does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.extras import VIDEO, require_installed
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP, MIDDLE_FRAME
from kdcmae.media.kinds import Modality
from kdcmae.media.windows import Windowing
from kdcmae.runtime.arrays import Arrays, Float32
from kdcmae.runtime.batching import by_clip
from kdcmae.runtime.predictions import (
    FileFeatures,
    FilePredictions,
    WindowFeatures,
    WindowPredictions,
    best,
    clip_scores,
)
from kdcmae.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from kdcmae.runtime.clip_methods import ClipMethods

__all__ = ["ClipModel", "Progress", "WindowOutputs", "classify_file", "embed_file", "run_file", "windowing_of"]

Progress = Callable[[int, int], None]
"""Called with the number of finished windows and of all windows."""

_ROWS_AT_ONCE = 16  # rows per call of the model; more save no time and need more memory


class _Facts(Protocol):
    """What must be known of a model to cut files for it."""

    @property
    def modality(self) -> Modality: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def batch(self) -> tuple[int, int]: ...


class ClipModel(Protocol):
    """A model that takes clips: a checkpoint, or an engine by :class:`EngineOnFiles`."""

    @property
    def facts(self) -> _Facts: ...

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]: ...

    def infer(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowOutputs:
    """What a model computes of one window.

    Args:
        start_s, end_s: of the window in seconds, from the start of the clip's sound.
        outputs: (frames, ...) by name.
        model_s: time that the model took, its share of a call with several windows.
    """

    start_s: float
    end_s: float
    outputs: dict[str, Float32]
    model_s: float


def windowing_of(preprocessing: Preprocessing, window_s: float | None = None, hop_s: float | None = None) -> Windowing:
    """The windows of a clip that a model takes one at a time.

    Args:
        preprocessing: the model's.
        window_s: seconds of a window; None for the longest that the model takes.
        hop_s: seconds from one window to the next; None for half a window.

    Raises:
        ConfigError: the model does not take such a window, or the hop is longer than a window or too short.
    """
    return Windowing.of(
        window_s, hop_s, longest=preprocessing.audio_samples, sample_rate_hz=preprocessing.sample_rate_hz
    )


def run_file(
    model: ClipModel,
    path: str | os.PathLike[str],
    windowing: Windowing,
    *,
    frame_numbers: Sequence[int] = (MIDDLE_FRAME,),
    progress: Progress = lambda done, total: None,
    boundary: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[WindowOutputs]:
    """Outputs of a model for every window of a file, in order.

    Args:
        windowing: in samples at 16 kHz.
        frame_numbers: which of each window's ten frames are run.
        progress: called before the first window, and after each.
        boundary: a context in which the file is read and prepared, never run.

    Raises:
        DataError: the file cannot be used.
        KdcmaeError: the model failed.
        MissingDependencyError: PyAV is not installed.
    """
    require_installed("av", install=VIDEO)
    from kdcmae.media.clip_windows import ClipWindow, ClipWindows

    facts = model.facts
    at_once = max(1, min(_ROWS_AT_ONCE, facts.batch[1]) // len(frame_numbers))
    with boundary():
        windows = ClipWindows(Path(path), facts.modality, frame_numbers, windowing, mono=facts.preprocessing.mono)
        arriving = iter(windows)
    progress(0, len(windows))
    waiting: list[tuple[ClipWindow, dict[str, NDArray[Any]]]] = []
    done = 0
    while True:
        with boundary():
            window = next(arriving, None)
            if window is not None:
                waiting.append((window, model.prepare(window.waveform, window.frames)))
        if waiting and (window is None or len(waiting) == at_once):
            began = time.perf_counter()
            outputs = by_clip(model.infer, [inputs for _, inputs in waiting], facts.batch)
            share_s = (time.perf_counter() - began) / len(waiting)
            for (span, _), results in zip(waiting, outputs, strict=True):
                yield WindowOutputs(start_s=span.start_s, end_s=span.end_s, outputs=results, model_s=share_s)
            waiting = []
        if window is None:
            return
        done += 1
        progress(done, len(windows))


@dataclass(frozen=True)
class EngineOnFiles:
    """An engine as a :class:`ClipModel`, and its own facts."""

    engine: ClipMethods

    @property
    def facts(self) -> EngineOnFiles:
        return self

    @property
    def modality(self) -> Modality:
        modality: Modality = self.engine.manifest.model["modality"]
        return modality

    @property
    def preprocessing(self) -> Preprocessing:
        return self.engine.preprocessing

    @property
    def batch(self) -> tuple[int, int]:
        return self.engine.manifest.batch.min, self.engine.manifest.batch.max

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        return self.engine.prepare(waveform, self.preprocessing.sample_rate_hz, frames)

    def infer(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        return self.engine.infer(inputs)


def _windows(
    engine: ClipMethods,
    path: str | os.PathLike[str],
    window_s: float | None,
    hop_s: float | None,
    average_frames: bool,
    progress: Progress | None,
) -> Iterator[WindowOutputs]:
    numbers = range(FRAMES_PER_CLIP) if average_frames else (MIDDLE_FRAME,)
    windowing = windowing_of(engine.preprocessing, window_s, hop_s)
    return run_file(
        EngineOnFiles(engine), path, windowing, frame_numbers=numbers, progress=progress or (lambda done, total: None)
    )


def classify_file(
    engine: ClipMethods,
    path: str | os.PathLike[str],
    *,
    window_s: float | None,
    hop_s: float | None,
    top: int,
    average_frames: bool,
    progress: Progress | None,
) -> FilePredictions:
    """The labels of a media file; see :meth:`kdcmae.runtime.Engine.classify_file`."""
    logits, labels = engine.manifest.outputs[0].name, engine.labels
    windows, total = [], np.zeros(len(labels))
    for window in _windows(engine, path, window_s, hop_s, average_frames, progress):
        likelihood = clip_scores(window.outputs[logits], engine.manifest.scores, f"engine {engine.folder}")
        total += likelihood
        predictions = best(likelihood, labels, top)
        windows.append(WindowPredictions(start_s=window.start_s, end_s=window.end_s, predictions=predictions))
    return FilePredictions(predictions=best(total / len(windows), labels, top), windows=tuple(windows))


def embed_file(
    engine: ClipMethods,
    path: str | os.PathLike[str],
    *,
    window_s: float | None,
    hop_s: float | None,
    average_frames: bool,
    progress: Progress | None,
) -> FileFeatures:
    """The features of a media file; see :meth:`kdcmae.runtime.Engine.embed_file`."""
    windows = []
    for window in _windows(engine, path, window_s, hop_s, average_frames, progress):
        features = {name: array.mean(axis=0) for name, array in window.outputs.items()}
        windows.append(WindowFeatures(start_s=window.start_s, end_s=window.end_s, features=features))
    names = windows[0].features
    means = {name: np.mean([window.features[name] for window in windows], axis=0) for name in names}
    return FileFeatures(features=means, windows=tuple(windows))
