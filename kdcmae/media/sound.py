"""Decoded sound as 16 kHz mono, by the resampler of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.media.resampling import Mono, Resampler, to_mono

__all__ = ["MonoSound", "channel_weights", "channels_of"]

_MOST_PLANES = 8  # PyAV 18 reads beyond the list of planes where it is full
_BLOCK = 1 << 16  # samples before resampling: decoders give a thousand at a time, and each call has its cost


class MonoSound:
    """Turns audio frames into 16 kHz mono.

    Args:
        path: of the file, for errors.
        take: called with blocks of samples: (S,) float32.
        limit: most samples to read; None for all.
        mono: how several channels become one.
    """

    def __init__(
        self, path: Path, take: Callable[[NDArray[np.float32]], object], limit: int | None = None, mono: Mono = "mean"
    ) -> None:
        self._path, self._take, self._limit, self._mono = path, take, limit, mono
        self.count = 0
        self.heard_s = 0.0  # of the stream, before any resampling
        self._source: tuple[str, str, int] | None = None
        self._resampler: Resampler | None = None
        self._weights: NDArray[np.float64] | None = None
        self._held: list[NDArray[Any]] = []  # (channels, samples), as decoded
        self._room = self._needed = 0  # samples until those held are resampled, and until no more are wanted

    @property
    def done(self) -> bool:
        """No more samples are wanted."""
        return self._limit is not None and self.count >= self._limit

    def add(self, frame: av.AudioFrame) -> None:
        """Take the next frame of the stream.

        Raises:
            DataError: samples that are not finite or far out of range.
        """
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:  # streams may change it on the way, a resampler takes only one
            self.finish()
            self._source, self._resampler = source, Resampler(frame.sample_rate)
            self._weights = channel_weights(frame.layout.name, frame.layout.nb_channels)
            self._needed = _BLOCK if self._limit is None else self._resampler.needed(self._limit - self.count)
            self._room = min(_BLOCK, self._needed)
        self.heard_s += frame.samples / frame.sample_rate
        self._held.append(channels_of(frame))
        self._room -= frame.samples
        if self._room <= 0:
            self._resample()

    def finish(self) -> None:
        """Flush the resampler at the end of the stream."""
        if self._resampler is not None:
            self._resample()
            self._give(self._resampler.finish())
        self._resampler = None

    def _resample(self) -> None:
        assert self._resampler is not None
        if self._held:
            try:
                samples = to_mono(np.concatenate(self._held, axis=1), self._mono, weights=self._weights)
            except DataError as error:
                raise DataError(f"{self._path}: {error}") from error
            self._needed -= 0 if self._limit is None else len(samples)
            self._give(self._resampler.push(samples))
        self._held, self._room = [], min(_BLOCK, self._needed)

    def _give(self, samples: NDArray[np.float32]) -> None:
        wanted = samples if self._limit is None else samples[: max(0, self._limit - self.count)]
        self.count += len(wanted)
        if len(wanted):
            self._take(wanted)


def channels_of(frame: av.AudioFrame) -> NDArray[Any]:
    """(channels, S), of the decoder's type."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels < _MOST_PLANES:
        return frame.to_ndarray()
    if frame.format.is_planar:
        packed = AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
        frame.pts = None
        (frame,) = packed.resample(frame)
    return frame.to_ndarray().reshape(-1, channels).T


@lru_cache(maxsize=64)
def channel_weights(layout: str, channels: int) -> NDArray[np.float64] | None:
    """Weight of each channel in the mean, as in ``ffmpeg -ac 1``, which gives more weight to front channels.

    Returns:
        (channels,) with a sum of 1; None for equal weights: two channels, or an unknown layout.
    """
    if channels <= 2:
        return None
    try:
        ones = av.AudioFrame.from_ndarray(
            np.eye(channels, dtype=np.float32).reshape(1, -1), format="flt", layout=layout
        )
        ones.sample_rate = 48000
        (mixed,) = AudioResampler(format="flt", layout="mono", rate=48000).resample(ones)
    except (av.error.ArgumentError, ValueError):
        return None
    weights = mixed.to_ndarray()[0].astype(np.float64)
    return weights / weights.sum()
