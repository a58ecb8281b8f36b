"""Scores of a live stream at every hop: :class:`Stream`, which :meth:`kdcmae.runtime.Engine.stream` returns."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import ConfigError, EngineInputError
from kdcmae.media.kinds import Modality
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono, Resampler
from kdcmae.media.windows import Window, Windowing
from kdcmae.runtime import feeding
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.batching import in_batches
from kdcmae.runtime.predictions import best, clip_scores
from kdcmae.runtime.streaming.pictures import Frame, Picture, PictureTrack
from kdcmae.runtime.streaming.results import StreamResult, StreamStatistics
from kdcmae.runtime.streaming.sound import SoundTrack

if TYPE_CHECKING:
    from kdcmae.runtime.clip_methods import ClipMethods

__all__ = ["Overrun", "Stream", "StreamSettings"]

Overrun = Literal["drop", "block"]
"""What happens if windows are not scored as fast as they come: the oldest one is dropped, or a push waits."""

_LATENCIES = 1000  # that the statistics are of


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Settings of a stream.

    Args:
        sample_rate_hz: of blocks of sound that come without their own.
        windowing: of the sound, in samples at 16 kHz.
        modality: what the engine gets of the stream.
        top: number of labels of each result.
        patience_s: how long sound or frames are waited for, by the timestamps of the other.
        deadline_s: latency beyond which a window counts as missed.
        backlog: most windows that wait to be scored.
        overrun: what happens beyond that.

    Raises:
        ConfigError: a value is out of range.
    """

    sample_rate_hz: int
    windowing: Windowing
    modality: Modality
    top: int
    patience_s: float
    deadline_s: float
    backlog: int
    overrun: Overrun

    def __post_init__(self) -> None:
        if not self.patience_s >= 0:
            raise ConfigError(f"patience={self.patience_s!r} must be at least 0 seconds")
        if not self.deadline_s > 0:
            raise ConfigError(f"deadline={self.deadline_s!r} must be more than 0 seconds")
        if not isinstance(self.backlog, int) or self.backlog < 1:
            raise ConfigError(f"backlog={self.backlog!r} must be at least one window")
        if self.overrun not in get_args(Overrun):
            raise ConfigError(f"overrun={self.overrun!r} must be one of {', '.join(get_args(Overrun))}")


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A complete window that is not scored yet."""

    start_s: float
    end_s: float
    samples: NDArray[Any]
    picture: Picture | None
    complete_s: float  # by the stream's clock


class Stream:
    """Sound and frames in, in pieces of any size; a :class:`~kdcmae.runtime.streaming.results.StreamResult` per hop
    out.

    Capture threads push, one for sound and one for frames, or one for both. One thread takes results: by iterating over
    the stream, which waits for them and ends after :meth:`finish` or :meth:`close`, or from :meth:`ready`. Pushing
    prepares and never runs the engine. docs/embed.md has the policy for input that is late, missing or irregular.

    Args:
        engine: a classifier.
        settings: of the stream.
        clock: seconds that latencies are measured in.
    """

    def __init__(
        self, engine: ClipMethods, settings: StreamSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        Resampler(settings.sample_rate_hz)  # refuses a rate before any sound comes
        self._engine, self._settings, self._clock = engine, settings, clock
        modality = engine.manifest.model["modality"]
        variant = "" if settings.modality == modality else settings.modality
        if variant and variant not in engine.variants:
            known = ", ".join((modality, *engine.variants))
            raise ConfigError(
                f"modality={settings.modality!r}: the engine takes {known}; rebuild it with --modalities for others"
            )
        inputs = [spec.name for spec in engine.manifests[variant].inputs]
        self._heard = [name for name in inputs if feeding.sources([name]) == {"waveform"}]
        self._seen = [name for name in inputs if feeding.sources([name]) == {"frame"}]
        self._statistics = StreamStatistics()
        windowing = settings.windowing
        self._sound = SoundTrack(windowing, engine.preprocessing.mono, self._statistics)
        window_s, hop_s = (samples / SAMPLE_RATE_HZ for samples in (windowing.length, windowing.hop))
        self._pictures = PictureTrack(window_s, hop_s, self._prepared_frame, self._statistics)
        self._timed = True  # as long as every block of sound has a timestamp
        self._pushing = threading.Lock()  # held by one push, also while it waits
        self._changed = threading.Condition()
        self._cut: deque[tuple[float, Window]] = deque()  # windows whose frames may still come, and their origin
        self._waiting: deque[_Waiting] = deque()
        self._ended = self._closed = False
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self._last_samples: NDArray[Any] | None = None
        self._last_sound: dict[str, NDArray[Any]] = {}
        self._last_picture: Picture | None = None

    def push_audio(
        self, samples: NDArray[Any], timestamp: float | None = None, *, sample_rate: int | None = None
    ) -> None:
        """Take a block of sound of any length.

        Args:
            samples: (S,) or (channels, S), floating point in [-1, 1] or integers at full scale.
            timestamp: of its first sample in seconds, by the clock of the frames' timestamps; None if it follows the
                block before it.
            sample_rate: in Hz; None for the stream's.

        Raises:
            DataError: a block that cannot be used.
            EngineInputError: the timestamp is no finite number.
        """
        _check_time(timestamp)
        with self._pushing, self._changed:
            if self._ended or not self._heard:
                return
            self._timed = self._timed and timestamp is not None
            rate_hz = self._settings.sample_rate_hz if sample_rate is None else sample_rate
            self._take(self._sound.push(samples, rate_hz, timestamp))

    def push_frame(self, frame: Frame, timestamp: float) -> None:
        """Take a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, or a function that returns it: of most frames only the timestamp is needed.
            timestamp: in seconds.

        Raises:
            DataError: a frame that cannot be used.
            EngineInputError: the timestamp is no finite number.
        """
        _check_time(timestamp)
        with self._pushing, self._changed:
            if self._ended or not self._seen:
                return
            if not self._heard:  # frames are the clock: silence stands for time
                self._take(self._sound.advance(timestamp))
            elif self._timed and self._sound.origin_s is not None:
                late_s = timestamp - self._settings.patience_s - self._sound.longest_s
                if late_s > self._sound.end_s:
                    self._take(self._sound.reach(late_s))
            self._pictures.push(timestamp, frame)
            self._take(())

    def finish(self) -> None:
        """End the input: the last window ends with the sound, and iterating ends after its result."""
        with self._pushing, self._changed:
            if not self._ended:
                self._take(self._sound.finish(), ending=True)
                self._ended = True
                self._changed.notify_all()

    def close(self) -> None:
        """End the stream at once and forget what is in it; later pushes are ignored. Closing twice is harmless."""
        with self._changed:
            self._ended = self._closed = True
            self._waiting.clear()
            self._cut.clear()
            self._pictures.restart(None)
            self._changed.notify_all()

    def ready(self) -> Iterator[StreamResult]:
        """The results of the windows that are complete; does not wait for others."""
        while (window := self._next(wait=False)) is not None:
            if (result := self._scored(window)) is not None:
                yield result

    def __iter__(self) -> Iterator[StreamResult]:
        while (window := self._next(wait=True)) is not None:
            if (result := self._scored(window)) is not None:
                yield result

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def mono(self) -> Mono:
        """How several channels become one."""
        return self._engine.preprocessing.mono

    @property
    def statistics(self) -> StreamStatistics:
        """Counts since the start."""
        with self._changed:
            latencies = list(self._latencies_ms) or [0.0]
            p50, p90 = np.percentile(latencies, [50, 90])
            return dataclasses.replace(
                self._statistics,
                latency_p50_ms=float(p50),
                latency_p90_ms=float(p90),
                latency_max_ms=max(latencies),
            )

    def _take(self, windows: Iterable[Window], *, ending: bool = False) -> None:
        """Keep windows that were cut, and let those wait to be scored whose frames have come."""
        for window in windows:
            self._follow_origin()
            self._cut.append((cast(float, self._sound.origin_s), window))
            self._release(ending=False)
        self._follow_origin()
        self._release(ending=ending)

    def _follow_origin(self) -> None:
        """Start the frames anew where the sound has done so; frames that came before the first sound stay."""
        origin_s = self._sound.origin_s
        if origin_s != self._pictures.origin_s:
            if self._pictures.origin_s is not None:
                self._release(ending=True)  # what was cut before the jump
                self._pictures.restart(origin_s)
            self._pictures.origin_s = origin_s

    def _release(self, *, ending: bool) -> None:
        windowing = self._settings.windowing
        while self._cut and not self._closed:
            origin_s, window = self._cut[0]
            start_s = origin_s + window.start / SAMPLE_RATE_HZ
            end_s = start_s + windowing.length / SAMPLE_RATE_HZ
            late = self._sound.end_s - end_s >= self._settings.patience_s
            if self._seen and not (ending or late or self._pictures.newest_s >= end_s):
                return
            self._cut.popleft()
            picture = self._pictures.shown(start_s) if self._seen else None
            length_s = len(window.samples) / SAMPLE_RATE_HZ
            self._enqueue(_Waiting(start_s, start_s + length_s, window.samples, picture, self._clock()))
            self._pictures.forget_before(self._cut_from_s(origin_s, window))

    def _cut_from_s(self, origin_s: float, window: Window) -> float:
        """Earliest start of a later window: that of the next one, unless the sound ends before that is over."""
        next_s = origin_s + (window.start + self._settings.windowing.hop) / SAMPLE_RATE_HZ
        return min(next_s, self._sound.end_s - self._settings.windowing.length / SAMPLE_RATE_HZ)

    def _enqueue(self, window: _Waiting) -> None:
        if self._settings.overrun == "block":
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._settings.backlog)
        elif len(self._waiting) == self._settings.backlog:
            self._waiting.popleft()
            self._statistics.dropped_windows += 1
        if not self._closed:
            self._waiting.append(window)
            self._changed.notify_all()

    def _next(self, *, wait: bool) -> _Waiting | None:
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    def _scored(self, window: _Waiting) -> StreamResult | None:
        """The result of a window; None if it needs a frame and none has come."""
        if self._seen and window.picture is None:
            with self._changed:
                self._statistics.unscored_windows += 1
            return None
        engine, batch = self._engine, self._engine.manifest.batch
        sound_is_same, picture_is_same = self._prepare_sound(window), window.picture is self._last_picture
        self._last_picture = window.picture
        feed: Arrays = {**self._last_sound, **(window.picture.inputs if window.picture else {})}
        # An engine in parts skips the encoder of an input that did not change.
        outputs = engine.infer(feed) if batch.min == 1 else in_batches(engine.infer, feed, (batch.min, batch.max))
        logits = outputs[engine.manifest.outputs[0].name]
        likelihood = clip_scores(logits, engine.manifest.scores, f"engine {engine.folder}")
        latency_s = self._clock() - window.complete_s
        missed = latency_s > self._settings.deadline_s
        with self._changed:
            self._latencies_ms.append(1000 * latency_s)
            self._statistics.windows += 1
            self._statistics.deadline_misses += missed
            self._statistics.reused_sounds += bool(self._heard) and sound_is_same
            self._statistics.reused_frames += bool(self._seen) and picture_is_same
        return StreamResult(
            start_s=window.start_s,
            end_s=window.end_s,
            predictions=best(likelihood, engine.labels, self._settings.top),
            frame_s=window.picture.time_s if window.picture else None,
            latency_ms=1000 * latency_s,
            missed=missed,
        )

    def _prepare_sound(self, window: _Waiting) -> bool:
        """Prepare the sound of a window unless it is that of the window before; returns whether it is."""
        same = self._last_samples is not None and np.array_equal(window.samples, self._last_samples)
        if self._heard and not same:
            self._last_samples = window.samples
            self._last_sound = feeding.from_clip(
                self._heard, self._engine.preprocessing, window.samples, SAMPLE_RATE_HZ, None
            )
        return same

    def _prepared_frame(self, frame: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        return feeding.from_clip(self._seen, self._engine.preprocessing, None, SAMPLE_RATE_HZ, [frame])


def _check_time(timestamp: float | None) -> None:
    if timestamp is not None and not (isinstance(timestamp, Real) and math.isfinite(timestamp)):
        raise EngineInputError(f"timestamp={timestamp!r} must be a finite number of seconds")
