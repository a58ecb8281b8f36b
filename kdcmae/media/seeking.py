"""Frames of a long video, each decoded from the keyframe before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kdcmae.media.container import find_stream, opened
from kdcmae.media.decoding import decodable, require_intact
from kdcmae.media.extent import Track
from kdcmae.media.frames import Spread

__all__ = ["Seeker", "seekable", "sought"]


def sought(path: Path, track: Track, span: tuple[int, int], threads: int) -> NDArray[np.uint8] | None:
    """Ten evenly spread frames, (10, H, W, 3) uint8.

    Args:
        path: of the file.
        track: its video.
        span: the first frame to spread over, and the one after the last.
        threads: of the decoder; 0 for one per core.

    Returns:
        None if the file does not state when each frame is shown, or does not allow seeking; then all frames have to be
        decoded and counted.

    Raises:
        DataError: a damaged frame.
    """
    if not seekable(track):
        return None
    spread = Spread(track.packets, span)
    with opened(path) as container:
        seeker = Seeker(path, container, track, threads)
        for number in spread.numbers:
            frame = seeker.frame(number)
            if frame is None:
                return None
            spread.keep(number, frame)
    return spread.frames()


def seekable(track: Track) -> bool:
    """Whether the file says when each frame of a video is shown."""
    times = sorted(track.pts)
    return len(times) == track.packets and all(first != second for first, second in pairwise(times))


class Seeker:
    """Decodes frames of a video by their numbers, cheapest in ascending order.

    Args:
        path: of the file.
        container: the open file, not shared with other readers.
        track: its video, which is :func:`seekable`.
        threads: of the decoder; 0 for one per core.
    """

    def __init__(self, path: Path, container: InputContainer, track: Track, threads: int) -> None:
        self._path, self._container = path, container
        self._times, self._keys = sorted(track.pts), sorted(track.keys)
        stream = decodable(find_stream(path, container, "video"), threads)
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._reached: int | None = None
        self._latest: av.VideoFrame | None = None

    def frame(self, number: int) -> av.VideoFrame | None:
        """A frame; None if seeking fails.

        Raises:
            DataError: it is damaged.
        """
        wanted = self._times[number]
        if self._latest is None or self._latest.pts != wanted:
            self._latest = self._sought(wanted)
        if self._latest is None:
            return None
        require_intact(self._path, self._latest)
        self._reached = wanted
        return self._latest

    def _sought(self, wanted: int) -> av.VideoFrame | None:
        before = bisect_right(self._keys, (wanted, wanted)) - 1
        if before < 0:
            return None
        if self._reached is not None and self._keys[before][0] <= self._reached < wanted:  # no seek needed
            frame = _first_from(self._frames, wanted)
            if frame is not None and frame.pts == wanted:
                return frame
        for target in _targets(self._keys, before):
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError:
                return None
            self._frames = self._container.decode(self._stream)
            frame = _first_from(self._frames, wanted)
            if frame is not None and frame.pts == wanted:
                return frame
        return None


def _targets(keys: list[tuple[int, int]], before: int) -> Iterator[int]:
    """Seek targets to try: containers expect the time at which a keyframe is shown or decoded, or miss it narrowly."""
    yield from keys[before]
    if before > 0:
        yield keys[before - 1][1]


def _first_from(frames: Iterator[av.VideoFrame], wanted: int) -> av.VideoFrame | None:
    """The first frame that is not shown before this time."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= wanted), None)
