"""What an app calls to label or embed clips and media files: the methods of an engine that take clips."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import EngineError, EngineInputError
from kdcmae.media.kinds import Modality
from kdcmae.media.resampling import SAMPLE_RATE_HZ
from kdcmae.media.windows import Windowing
from kdcmae.runtime.arrays import Arrays, Float32
from kdcmae.runtime.backend import is_whole
from kdcmae.runtime.batching import by_clip
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.predictions import FileFeatures, FilePredictions, Prediction, best, clip_scores
from kdcmae.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from kdcmae.runtime.media_files import Progress
    from kdcmae.runtime.streaming.stream import Overrun, Stream

__all__ = ["Clip", "ClipMethods"]

Clip = tuple[NDArray[Any] | None, int, NDArray[np.uint8] | Iterable[NDArray[np.uint8]] | None]
"""Waveform, its sample rate in Hz, and a frame or several."""


class ClipMethods(ABC):
    """Methods of :class:`kdcmae.runtime.Engine` that take clips."""

    folder: Path
    manifest: Manifest
    preprocessing: Preprocessing

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.manifest.labels

    @property
    def variants(self) -> tuple[str, ...]:
        """Modalities that the engine also takes without the other one."""
        return self.manifest.variants

    @property
    @abstractmethod
    def manifests(self) -> Mapping[str, Manifest]:
        """Manifests by variant; the engine itself has an empty name."""

    @abstractmethod
    def prepare(
        self, waveform: NDArray[Any] | None, sample_rate: int, frames: Iterable[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of :meth:`infer` for one clip."""

    @abstractmethod
    def infer(self, feed: Arrays) -> dict[str, Float32]:
        """Run one batch."""

    def classify(
        self, waveform: NDArray[Any] | None, sample_rate: int, frame: NDArray[np.uint8] | None, *, top: int = 5
    ) -> list[Prediction]:
        """Label one clip.

        Args:
            waveform: (S,) or (channels, S), floating point in [-1, 1] or integers at full scale; None for an
                engine, or a variant of it, without an audio input.
            sample_rate: sample rate of the waveform in Hz.
            frame: (H, W, 3) uint8 RGB; None for an engine, or a variant of it, without an image input.
            top: number of labels to return.

        Returns:
            The labels with the highest scores, best first.

        Raises:
            EngineInputError: an input that the engine needs is None, or ``top`` is not a positive whole number.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is not a classifier, or its scores are not finite.
        """
        frames = None if frame is None else [frame]
        return self.classify_batch([(waveform, sample_rate, frames)], top=top)[0]

    def classify_batch(self, clips: Iterable[Clip], *, top: int = 5) -> list[list[Prediction]]:
        """Label several clips, as many at once as the engine takes.

        Args:
            clips: ``(waveform, sample_rate, frame)`` each, as :meth:`classify` takes them. Several frames of one size
                in the place of one give the clip the mean of their scores.
            top: number of labels to return.

        Returns:
            The labels with the highest scores of each clip, best first.

        Raises:
            EngineInputError: an input that the engine needs is None, or ``top`` is not a positive whole number.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is not a classifier, or its scores are not finite.
        """
        self._check_classifies(top)
        logits, kind, name = self.manifest.outputs[0].name, self.manifest.scores, f"engine {self.folder}"
        outputs = self._outputs(clips)
        return [list(best(clip_scores(results[logits], kind, name), self.labels, top)) for results in outputs]

    def classify_file(
        self,
        path: str | os.PathLike[str],
        *,
        window: float | None = None,
        hop: float | None = None,
        top: int = 5,
        average_frames: bool = False,
        progress: Progress | None = None,
    ) -> FilePredictions:
        """Label a media file of any length, with the windows, frames and scores of ``kdcmae predict``.

        Memory does not grow with the file, except for the results.

        Args:
            path: any container and codec that ffmpeg knows.
            window: seconds that are scored at once; None for what the model takes.
            hop: seconds from one window to the next; None for half a window.
            top: number of labels of each result.
            average_frames: average the scores over ten frames of each window; otherwise its middle one is used.
            progress: called with the number of finished windows and of all windows.

        Returns:
            The labels of the whole file, which are those of the mean of all windows, and of each window.

        Raises:
            ConfigError: the model does not take such a window, or the hop is longer than a window or too short.
            EngineInputError: ``top`` is not a positive whole number.
            DataError: a file that cannot be used, or that lacks the sound or the pictures that the engine needs.
            EngineError: the engine is not a classifier, or its scores are not finite.
            MissingDependencyError: PyAV is not installed, which reads files: the extra ``video``.
        """
        from kdcmae.runtime.media_files import classify_file

        self._check_classifies(top)
        return classify_file(
            self, path, window_s=window, hop_s=hop, top=top, average_frames=average_frames, progress=progress
        )

    def embed(
        self, waveform: NDArray[Any] | None, sample_rate: int, frame: NDArray[np.uint8] | None
    ) -> dict[str, Float32]:
        """The features of one clip, of an engine that was compiled with ``--task features``.

        Args:
            waveform, sample_rate, frame: as :meth:`classify` takes them.

        Returns:
            (D,) by the name of the output: ``audio_features`` and ``video_features``.

        Raises:
            EngineInputError: an input that the engine needs is None.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is a classifier.
        """
        frames = None if frame is None else [frame]
        return self.embed_batch([(waveform, sample_rate, frames)])[0]

    def embed_batch(self, clips: Iterable[Clip]) -> list[dict[str, Float32]]:
        """The features of several clips, as many at once as the engine takes.

        Args:
            clips: as :meth:`classify_batch` takes them. Several frames of a clip give it the mean of their features.

        Returns:
            (D,) by the name of the output, for each clip.

        Raises:
            EngineInputError: an input that the engine needs is None.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is a classifier.
        """
        self._check_embeds()
        return [{name: array.mean(axis=0) for name, array in results.items()} for results in self._outputs(clips)]

    def embed_file(
        self,
        path: str | os.PathLike[str],
        *,
        window: float | None = None,
        hop: float | None = None,
        average_frames: bool = False,
        progress: Progress | None = None,
    ) -> FileFeatures:
        """The features of a media file of any length, of the windows that :meth:`classify_file` cuts.

        Args:
            path, window, hop, average_frames, progress: as :meth:`classify_file` takes them.

        Returns:
            The features of each window, and their mean.

        Raises:
            ConfigError: the model does not take such a window, or the hop is longer than a window or too short.
            DataError: a file that cannot be used.
            EngineError: the engine is a classifier.
            MissingDependencyError: PyAV is not installed, which reads files: the extra ``video``.
        """
        from kdcmae.runtime.media_files import embed_file

        self._check_embeds()
        return embed_file(self, path, window_s=window, hop_s=hop, average_frames=average_frames, progress=progress)

    def stream(
        self,
        sample_rate: int = SAMPLE_RATE_HZ,
        hop: float = 0.25,
        *,
        window: float | None = None,
        modality: Modality | None = None,
        top: int = 5,
        patience: float = 0.5,
        deadline: float | None = None,
        backlog: int = 8,
        overrun: Overrun = "drop",
    ) -> Stream:
        """Label a live stream: push sound and frames as they come, and take scores at every hop.

        Args:
            sample_rate: of the sound in Hz, where a block does not come with its own.
            hop: seconds from one window to the next.
            window: seconds that are scored at once; None for what the model takes.
            modality: what the stream has: ``audio`` or ``video`` for a variant of the engine; None for what it takes.
            top: number of labels of each result.
            patience: seconds that sound and frames are waited for, by each other's timestamps.
            deadline: seconds after which scores are late; None for a hop.
            backlog: most windows that wait to be scored.
            overrun: beyond that, ``drop`` the oldest window, or ``block`` the push until another thread takes results.

        Returns:
            The stream, to be closed, or used in a ``with`` statement.

        Raises:
            ConfigError: a setting is out of range, or the engine has no such variant.
            DataError: a sample rate that cannot be resampled.
            EngineInputError: ``top`` is not a positive whole number.
            EngineError: the engine is not a classifier.
        """
        from kdcmae.runtime.streaming.stream import Stream, StreamSettings

        self._check_classifies(top)
        windowing = Windowing.of(
            window, hop, longest=self.preprocessing.audio_samples, sample_rate_hz=self.preprocessing.sample_rate_hz
        )
        settings = StreamSettings(
            sample_rate_hz=sample_rate,
            windowing=windowing,
            modality=modality or self.manifest.model["modality"],
            top=top,
            patience_s=patience,
            deadline_s=hop if deadline is None else deadline,
            backlog=backlog,
            overrun=overrun,
        )
        return Stream(self, settings)

    def _outputs(self, clips: Iterable[Clip]) -> list[dict[str, Float32]]:
        """Outputs of each clip, a row per frame."""
        prepared = [
            self.prepare(waveform, rate, [frames] if isinstance(frames, np.ndarray) else frames)
            for waveform, rate, frames in clips
        ]
        return by_clip(self.infer, prepared, (self.manifest.batch.min, self.manifest.batch.max))

    def _check_classifies(self, top: int) -> None:
        if not self.labels:
            raise EngineError(f"engine {self.folder} has no labels, so it cannot classify; use embed() or infer()")
        if not is_whole(top) or top < 1:
            raise EngineInputError(f"top={top!r} must be a whole number of at least 1")

    def _check_embeds(self) -> None:
        if self.labels:
            raise EngineError(
                f"engine {self.folder} is a classifier and gives no features; compile a pretraining checkpoint with "
                "--task features"
            )
