"""The ten frames of a long video, each decoded from the keyframe before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kdcmae.data.media.container import find_stream, opened
from kdcmae.data.media.decoding import decodable, require_intact
from kdcmae.data.media.extent import Track
from kdcmae.data.media.frames import Spread, spread_numbers

__all__ = ["sought"]


def sought(path: Path, track: Track, threads: int) -> NDArray[np.uint8] | None:
    """The ten evenly spread frames, (10, H, W, 3) uint8.

    Args:
        path: of the file.
        track: its video.
        threads: of the decoder; 0 for one per core.

    Returns:
        None where the file does not say when each frame is shown, or cannot be sought: then every frame has to be
        decoded to count them.

    Raises:
        DataError: a damaged frame.
    """
    times, keys = sorted(track.pts), sorted(track.keys)
    if len(times) != track.packets or any(first == second for first, second in pairwise(times)):
        return None
    spread = Spread(track.packets)
    with opened(path) as container:
        stream = decodable(find_stream(path, container, "video"), threads)
        assert isinstance(stream, VideoStream)
        frames: Iterator[av.VideoFrame] = iter(())
        reached: int | None = None
        for number in spread_numbers(track.packets):
            wanted, frame = times[number], None
            before = bisect_right(keys, (wanted, wanted)) - 1
            if before < 0:
                return None
            if reached is not None and keys[before][0] <= reached:  # going on is as near as seeking
                frame = _first_from(frames, wanted)
            for target in () if frame else _targets(keys, before):
                try:
                    container.seek(target, stream=stream)
                except av.FFmpegError:
                    return None
                frames = container.decode(stream)
                if (frame := _first_from(frames, wanted)) and frame.pts == wanted:
                    break
            if frame is None or frame.pts != wanted:
                return None
            require_intact(path, frame)
            spread.keep(number, frame)
            reached = wanted
    return spread.frames()


def _targets(keys: list[tuple[int, int]], before: int) -> Iterator[int]:
    """Where to seek to: containers look for the time that a keyframe is shown at, or decoded, or miss it narrowly."""
    yield from keys[before]
    if before > 0:
        yield keys[before - 1][1]


def _first_from(frames: Iterator[av.VideoFrame], wanted: int) -> av.VideoFrame | None:
    """The first frame that is not shown before this time."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= wanted), None)
