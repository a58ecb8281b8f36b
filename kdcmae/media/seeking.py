"""Frames of a long video, each decoded from the keyframe before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
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
from kdcmae.media.frames import upright_rgb

__all__ = ["Seeker", "seekable", "sought"]

# Codecs with packets that are never shown, whose frames only decoding can count.
_HIDES_PACKETS = {"vp8", "mpeg4"}


def sought(
    path: Path, track: Track, numbers: Sequence[int], threads: int, *, as_counted: bool = False
) -> NDArray[np.uint8] | None:
    """Some frames, (frames, H, W, 3) uint8.

    Args:
        path: of the file.
        track: its video.
        numbers: of the frames, in ascending order.
        threads: of the decoder; 0 for one per core.
        as_counted: the frames must be those that decoding the whole video counts.

    Returns:
        None if the file does not state when each frame is shown, or does not allow seeking, or if decoded frames may be
        counted otherwise than by their times; then all frames have to be decoded and counted.

    Raises:
        DataError: a damaged frame.
    """
    if not seekable(track) or (as_counted and not _starts_whole(track)):
        return None
    pictures: list[NDArray[np.uint8]] = []
    with opened(path) as container:
        seeker = Seeker(path, container, track, threads, as_counted=as_counted)
        if as_counted and seeker.codec in _HIDES_PACKETS:
            return None
        size = seeker.size
        for number in numbers:
            frame = seeker.frame(number)
            if frame is None or (as_counted and (frame.width, frame.height) != size):
                return None
            size = size if pictures or as_counted else (frame.width, frame.height)
            pictures.append(upright_rgb(frame, size))
    return np.stack(pictures)


def _starts_whole(track: Track) -> bool:
    """Whether the first frames to be shown can be decoded: none of them needs a picture before the first keyframe."""
    return bool(track.keys) and min(track.keys)[0] <= min(track.pts)


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
        as_counted: seeking fails where a packet between a keyframe and the wanted frame does not become one frame.
    """

    def __init__(
        self, path: Path, container: InputContainer, track: Track, threads: int, *, as_counted: bool = False
    ) -> None:
        self._path, self._container = path, container
        self._times, self._keys = sorted(track.pts), sorted(track.keys)
        stream = decodable(find_stream(path, container, "video"), threads)
        assert isinstance(stream, VideoStream)
        self._stream, self.size, self.codec = stream, (stream.width, stream.height), stream.codec_context.name
        self._as_counted = as_counted
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
            frame = self._first_from(self._reached, wanted)
            if frame is not None and frame.pts == wanted:
                return frame
        for target in _targets(self._keys, before):
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError:
                return None
            self._frames = self._container.decode(self._stream)
            frame = self._first_from(self._keys[before][0] - 1, wanted)
            if frame is not None and frame.pts == wanted:
                return frame
        return None

    def _first_from(self, seen: int, wanted: int) -> av.VideoFrame | None:
        """The first frame that is not shown before this time; None if frames after ``seen`` are not those stated."""
        due = bisect_right(self._times, seen)
        for frame in self._frames:
            if frame.pts is None or frame.pts <= seen:
                continue
            if self._as_counted and (frame.is_corrupt or due == len(self._times) or frame.pts != self._times[due]):
                return None  # damaged, or a keyframe that decoding cannot start at: decoding everything tells which
            if frame.pts >= wanted:
                return frame
            due += 1
        return None


def _targets(keys: list[tuple[int, int]], before: int) -> Iterator[int]:
    """Seek targets to try: containers expect the time at which a keyframe is shown or decoded, or miss it narrowly."""
    yield from keys[before]
    if before > 0:
        yield keys[before - 1][1]
