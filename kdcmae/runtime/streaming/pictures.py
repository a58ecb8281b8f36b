"""Frames of a stream: all timestamps, and the few frames that a window may show, already prepared for the engine."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.media.frame_numbers import MIDDLE_FRAME, frames_between, spread_numbers
from kdcmae.runtime.streaming.results import StreamStatistics

__all__ = ["Frame", "Picture", "PictureTrack"]

Frame = NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]
"""(H, W, 3) RGB, or what makes it, called only for frames that a window may show."""

_CLOSEST_S = 1 / 500  # frames that are closer than this are one
_MOST_TIMES = 20_000  # of frames that wait for sound
_MOST_BYTES = 256 << 20  # of frames that are held


@dataclass(frozen=True, eq=False)
class Picture:
    """A prepared frame.

    Args:
        time_s: its timestamp.
        inputs: arrays of one row by the name of the engine's input.
    """

    time_s: float
    inputs: dict[str, NDArray[Any]]


class PictureTrack:
    """The frames of a stream.

    A window shows the middle one of its frames, as in ``kdcmae predict``, but which one that is shows only when the
    window is over, half a window later. Frames near the middle of a window are kept, at most four per hop whatever the
    camera's rate.

    Args:
        window_s: length of a window in seconds.
        hop_s: from one window to the next, in seconds.
        prepare: makes the engine's inputs of a frame.
        statistics: where late frames and duplicates are counted.
    """

    def __init__(
        self,
        window_s: float,
        hop_s: float,
        prepare: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]],
        statistics: StreamStatistics,
    ) -> None:
        self._window_s, self._hop_s = window_s, hop_s
        self._prepare, self._statistics = prepare, statistics
        self.origin_s: float | None = None  # of the first window; None as long as it is not known
        self.restart(None)

    def restart(self, origin_s: float | None) -> None:
        """Forget all frames: the windows start anew."""
        self.origin_s = origin_s
        self._times: list[float] = []
        self._held: list[Picture] = []
        self._bytes = 0
        self._usable_from_s = float("-inf")

    @property
    def newest_s(self) -> float:
        """Timestamp of the newest frame; minus infinity without any."""
        return self._times[-1] if self._times else float("-inf")

    def push(self, time_s: float, frame: Frame) -> None:
        """Take a frame.

        Raises:
            DataError: it is no picture.
        """
        place = bisect_left(self._times, time_s)
        if time_s < self._usable_from_s:
            self._statistics.late_frames += 1
            return
        if any(abs(other - time_s) < _CLOSEST_S for other in self._times[max(0, place - 1) : place + 1]):
            self._statistics.duplicate_frames += 1
            return
        if self._is_near_a_middle(time_s, time_s - self._times[place - 1] if place else self._window_s):
            picture = Picture(time_s, self._prepare(frame() if callable(frame) else frame))
            self._held.insert(bisect_left(self._held, time_s, key=_time), picture)
            self._bytes += _size(picture)
        self._times.insert(place, time_s)
        del self._times[:-_MOST_TIMES]
        while self._bytes > _MOST_BYTES and len(self._held) > 1:
            self._bytes -= _size(self._held.pop(0))

    def shown(self, start_s: float) -> Picture | None:
        """The middle frame of a window, or of those held the nearest one to it; None without any."""
        if not self._held:
            return None
        numbers = spread_numbers(*frames_between(self._times, start_s, start_s + self._window_s))
        middle_s = self._times[numbers[MIDDLE_FRAME]]
        place = bisect_left(self._held, middle_s, key=_time)
        return min(self._held[max(0, place - 1) : place + 1], key=lambda picture: abs(picture.time_s - middle_s))

    def forget_before(self, start_s: float) -> None:
        """Drop what no window from this start on shows; the last frame before it stays, as it does on a screen."""
        self._usable_from_s = max(self._usable_from_s, start_s)
        del self._times[: max(0, bisect_right(self._times, start_s) - 1)]
        spent = max(0, bisect_right(self._held, start_s, key=_time) - 1)
        self._bytes -= sum(map(_size, self._held[:spent]))
        del self._held[:spent]

    def _is_near_a_middle(self, time_s: float, period_s: float) -> bool:
        """Whether a frame may be the middle one of a window, which lies from half a period before the window's middle
        to a period after it; or nothing was kept for a hop, or there are few frames in a hop at all."""
        before = bisect_left(self._held, time_s, key=_time)
        if self.origin_s is None or not before or 4 * period_s >= self._hop_s:
            return True
        if time_s - self._held[before - 1].time_s >= self._hop_s - period_s / 2:
            return True
        after_middle_s = (time_s - self.origin_s - self._window_s / 2 + 0.75 * period_s) % self._hop_s
        return after_middle_s <= 2 * period_s


def _time(picture: Picture) -> float:
    return picture.time_s


def _size(picture: Picture) -> int:
    return sum(array.nbytes for array in picture.inputs.values())
