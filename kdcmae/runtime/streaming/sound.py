"""Blocks of sound of any size and rate, placed by their timestamps and cut into windows at 16 kHz."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono, Resampler, to_mono
from kdcmae.media.windows import FRAME_LENGTH, Cutter, Window, Windowing
from kdcmae.runtime.streaming.results import StreamStatistics

__all__ = ["JITTER_S", "SoundTrack"]

JITTER_S = 0.05
"""How far a timestamp may be from where the sound before it ends, in seconds, and still follow it."""

_MOST_CHANNELS = 64
_PIECE_S = 1.0  # of a long block that is cut at once, so that its windows need not be held together


class SoundTrack:
    """The sound of a stream.

    Args:
        windowing: in samples at 16 kHz.
        mono: how several channels become one.
        statistics: where silence, overlaps and restarts are counted.
    """

    def __init__(self, windowing: Windowing, mono: Mono, statistics: StreamStatistics) -> None:
        self._windowing, self._mono, self._statistics = windowing, mono, statistics
        self._window_s = windowing.length / SAMPLE_RATE_HZ
        self.origin_s: float | None = None  # of the first window; None before any sound
        self.longest_s = 0.0  # of the blocks so far, at most a window: a block comes when its end is over
        self._restart(0.0)
        self.origin_s = None

    def _restart(self, origin_s: float) -> None:
        self.origin_s = origin_s
        self._cutter = Cutter(self._windowing)
        self._resampler = Resampler(SAMPLE_RATE_HZ)
        self._rate_hz = SAMPLE_RATE_HZ
        self._from_s, self._heard = origin_s, 0  # start of what has this rate, and its samples so far

    @property
    def end_s(self) -> float:
        """Where the sound ends that came so far."""
        return self._from_s + self._heard / self._rate_hz

    def push(self, samples: NDArray[Any], rate_hz: int, timestamp_s: float | None) -> Iterator[Window]:
        """Take a block, and cut the windows that it completes.

        Args:
            samples: (S,) or (channels, S): floating point in [-1, 1] or integers at full scale.
            rate_hz: of the block.
            timestamp_s: of its first sample; None if it follows what came before.

        Raises:
            DataError: not such a block, or a sample rate that cannot be resampled.
        """
        samples = _checked(samples)
        resampler = Resampler(rate_hz) if rate_hz != self._rate_hz else None  # raises before anything is changed
        mono = to_mono(samples, self._mono)
        self.longest_s = max(self.longest_s, min(len(mono) / rate_hz, self._window_s))
        if self.origin_s is None:
            self._restart(0.0 if timestamp_s is None else timestamp_s)
        if resampler is not None:
            yield from self._cutter.push(self._resampler.finish())
            self._from_s, self._heard, self._rate_hz, self._resampler = self.end_s, 0, rate_hz, resampler
        if timestamp_s is not None:
            yield from self.reach(timestamp_s)
            spent = self.end_s - timestamp_s
            if spent > JITTER_S:
                overlap = min(len(mono), round(spent * rate_hz))
                self._statistics.overlap_s += overlap / rate_hz
                mono = mono[overlap:]
        piece = max(1, round(_PIECE_S * rate_hz))
        for start in range(0, len(mono), piece):
            yield from self._append(mono[start : start + piece])

    def reach(self, time_s: float) -> Iterator[Window]:
        """Stand silence for what is missing before a time, or start anew there if it is more than a window away."""
        missing_s = time_s - self.end_s
        if self.origin_s is not None and JITTER_S < missing_s <= self._window_s:
            self._statistics.silence_s += missing_s
        if missing_s > JITTER_S or missing_s < -self._window_s:
            yield from self.advance(time_s)

    def advance(self, time_s: float) -> Iterator[Window]:
        """Let time pass without sound; jumps of more than a window start anew."""
        missing_s = time_s - self.end_s
        if self.origin_s is None or abs(missing_s) > self._window_s:
            self._statistics.restarts += self.origin_s is not None
            rate_hz = self._rate_hz
            self._restart(time_s)
            self._rate_hz, self._resampler = rate_hz, Resampler(rate_hz)
        elif missing_s > 0:
            yield from self._append(np.zeros(round(missing_s * self._rate_hz), dtype=np.float32))

    def finish(self) -> Iterator[Window]:
        """The windows that the end of the sound completes; the last one ends with it.

        Sound that is shorter than a frame of the spectrogram, such as the rest after a jump of the clock, makes none.
        """
        yield from self._cutter.push(self._resampler.finish())
        if self._cutter.total >= FRAME_LENGTH:
            yield from self._cutter.finish()

    def _append(self, mono: NDArray[np.float32]) -> list[Window]:
        self._heard += len(mono)
        return self._cutter.push(self._resampler.push(mono))


def _checked(samples: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(samples, np.ndarray) or samples.ndim not in (1, 2):
        shape = getattr(samples, "shape", type(samples).__name__)
        raise DataError(f"a block of sound must be a numpy array (S,) or (channels, S), got {shape}")
    if samples.ndim == 2 and not 1 <= samples.shape[0] <= _MOST_CHANNELS:
        raise DataError(f"a block of sound of shape {samples.shape} must be (channels, S): transpose it")
    return samples
