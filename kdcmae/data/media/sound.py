"""Decoded sound as 16 kHz mono."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from kdcmae.runtime.resampling import SAMPLE_RATE_HZ

__all__ = ["Mono"]


class Mono:
    """Turns audio frames into 16 kHz mono, 16 bit: mixed down and resampled by ffmpeg as in the published extraction.

    16 bit also for the gain: in floating point ffmpeg mixes stereo down to 0.71 (L + R), in integers to 0.5 (L + R).

    Args:
        take: gets the samples, a few at a time.
        limit: samples after which the rest is left out; None for all.
    """

    def __init__(self, take: Callable[[NDArray[np.int16]], object], limit: int | None = None) -> None:
        self._take, self._limit = take, limit
        self.count = 0
        self.heard_s = 0.0  # of the stream, before any resampling
        self._source: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None
        self._averaged = False

    @property
    def done(self) -> bool:
        """No more samples are wanted."""
        return self._limit is not None and self.count >= self._limit

    def add(self, frame: av.AudioFrame) -> None:
        """Take the next frame of the stream."""
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:  # streams may change it on the way, a resampler takes only one
            self.finish()
            self._source, self._averaged = source, not _mixable(frame)
            self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        self.heard_s += frame.samples / frame.sample_rate
        frame.pts = None
        self._resample(_average(frame) if self._averaged else frame)

    def finish(self) -> None:
        """Take what the resampler still holds, at the end of the stream."""
        self._resample(None)
        self._resampler = None

    def _resample(self, frame: av.AudioFrame | None) -> None:
        if self._resampler is None:
            return
        for part in self._resampler.resample(frame):
            samples = part.to_ndarray()[0]
            wanted = samples if self._limit is None else samples[: max(0, self._limit - self.count)]
            self.count += len(wanted)
            if len(wanted):
                self._take(wanted)


def _mixable(frame: av.AudioFrame) -> bool:
    """Whether ffmpeg knows where the channels of a frame are placed; it does not for 9 or 17 of them."""
    silence = av.AudioFrame(format=frame.format.name, layout=frame.layout, samples=1)
    silence.sample_rate = frame.sample_rate
    for plane in silence.planes:
        plane.update(bytes(plane.buffer_size))
    try:
        AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ).resample(silence)
    except av.error.ArgumentError:
        return False
    return True


def _average(frame: av.AudioFrame) -> av.AudioFrame:
    """The mean of the channels."""
    channels, rate = frame.layout.nb_channels, frame.sample_rate
    samples = frame.to_ndarray()
    rows = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    scaled: NDArray[np.floating[Any]]
    if samples.dtype.kind == "u":
        scaled = (rows.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        scaled = rows / float(1 << (8 * samples.dtype.itemsize - 1))
    else:
        scaled = rows.astype(np.float64)
    mono = av.AudioFrame.from_ndarray(
        scaled.mean(axis=0, keepdims=True).astype(np.float32), format="fltp", layout="mono"
    )
    mono.sample_rate = rate
    return mono
