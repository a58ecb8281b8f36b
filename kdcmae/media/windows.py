"""Windows of a long sound, which a model takes one at a time: of a whole waveform, or of one that is still arriving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import ConfigError
from kdcmae.media.resampling import SAMPLE_RATE_HZ

__all__ = ["FRAME_LENGTH", "FRAME_SHIFT", "Cutter", "Window", "Windowing"]

FRAME_LENGTH = 400  # samples of a frame of the spectrogram, 25 ms
FRAME_SHIFT = 160  # samples from one frame to the next, 10 ms

_FRAME_S, _SHIFT_S = FRAME_LENGTH / SAMPLE_RATE_HZ, FRAME_SHIFT / SAMPLE_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """Windows of one length at a fixed distance; the last one ends with the sound.

    Args:
        length: number of samples in a window.
        hop: number of samples from the start of a window to the start of the next.

    Raises:
        ConfigError: a value is not a positive whole number.
    """

    length: int
    hop: int

    def __post_init__(self) -> None:
        for name in ("length", "hop"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}={value!r} of the windows must be at least one sample")

    @classmethod
    def of(cls, window_s: float | None, hop_s: float | None, *, longest: int, sample_rate_hz: int) -> Windowing:
        """Windows in seconds.

        Args:
            window_s: length of a window; None for the longest that the model takes.
            hop_s: distance of the windows; None for half a window, so that an event cut by one window is whole in the
                next.
            longest: number of samples that the model takes at once.
            sample_rate_hz: sample rate of the sound.

        Raises:
            ConfigError: a window is longer than the model takes or shorter than a frame of the spectrogram, or a hop is
                longer than a window, which would skip sound, or shorter than the distance of two frames, or a value
                is no finite number.
        """
        for name, value in (("window", window_s), ("hop", hop_s)):
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                raise ConfigError(f"{name}={value!r} must be a finite number of seconds")
        length = longest if window_s is None else round(window_s * sample_rate_hz)
        if length > longest:
            raise ConfigError(
                f"a window of {window_s:g} s is more than the {longest / sample_rate_hz:.2f} s that the model hears"
            )
        if window_s is not None and window_s < _FRAME_S:
            raise ConfigError(
                f"a window of {window_s:g} s is less than one spectrogram frame; give {_FRAME_S:g} s or more"
            )
        if hop_s is None:
            return cls(length=length, hop=max(1, length // 2))
        if hop_s < _SHIFT_S:
            raise ConfigError(
                f"a hop of {hop_s:g} s is less than from one spectrogram frame to the next; give {_SHIFT_S:g} s or more"
            )
        hop = round(hop_s * sample_rate_hz)
        if hop > length:
            raise ConfigError(
                f"a hop of {hop_s:g} s leaves out sound between windows of {length / sample_rate_hz:g} s; "
                "give a hop that is no longer than a window"
            )
        return cls(length=length, hop=hop)

    def starts(self, total: int) -> list[int]:
        """Start samples of the windows of a sound.

        Args:
            total: number of samples of the sound. A sound shorter than a window makes one shorter window.
        """
        starts = list(range(0, max(1, total - self.length + 1), self.hop))
        if starts[-1] + self.length < total:
            starts.append(total - self.length)
        return starts


@dataclass(frozen=True, eq=False)
class Window:
    """A window of the sound.

    Args:
        start: index of its first sample in the sound.
        samples: (S,) samples of the sound's dtype.
    """

    start: int
    samples: NDArray[Any]


class Cutter:
    """Cuts a sound into windows while it arrives. It stores at most a window and a hop.

    Args:
        windowing: the windows.
    """

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._held: NDArray[Any] = np.empty(0, dtype=np.float32)
        self._held_from = 0
        self._next = 0  # start of the next window
        self._end = 0  # end of the last window

    @property
    def total(self) -> int:
        """Number of samples so far."""
        return self._held_from + len(self._held)

    def push(self, samples: NDArray[Any]) -> list[Window]:
        """Add samples, and return the windows that they complete.

        Args:
            samples: (S,) new samples.
        """
        self._held = np.concatenate([self._held, samples])
        windows = []
        while self._next + self._windowing.length <= self.total:
            windows.append(self._window(self._next))
            self._next += self._windowing.hop
        # Keep a whole window, because the last one ends with the sound and may start before the next one.
        spent = min(self._next, self.total - self._windowing.length) - self._held_from
        if spent > 0:
            self._held, self._held_from = self._held[spent:], self._held_from + spent
        return windows

    def finish(self) -> list[Window]:
        """The window that ends with the sound, unless the last one already did."""
        if self._end == self.total:
            return []
        return [self._window(max(0, self.total - self._windowing.length))]

    def _window(self, start: int) -> Window:
        place = start - self._held_from
        samples = self._held[place : place + self._windowing.length].copy()
        self._end = start + len(samples)
        return Window(start, samples)
