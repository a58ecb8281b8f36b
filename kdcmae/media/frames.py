"""Ten evenly spread frames of decoded video, upright."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

from kdcmae.media.frame_numbers import spread_numbers

__all__ = ["Spread", "upright_rgb"]

Picture = NDArray[np.uint8]


class Spread:
    """Collects ten evenly spread frames of ``expected``, and counts the actual number.

    Args:
        expected: frames.
        span: the first of them to spread over, and the one after the last; None for all.
    """

    def __init__(self, expected: int, span: tuple[int, int] | None = None) -> None:
        self.expected = expected
        self.span = (0, expected) if span is None else span
        self.count = 0
        self.numbers = spread_numbers(*self.span)
        self._kept: dict[int, Picture] = {}
        self._size: tuple[int, int] | None = None

    @property
    def done(self) -> bool:
        """Always False: every frame is counted."""
        return False

    def add(self, frame: av.VideoFrame) -> None:
        """Take the next frame of the stream."""
        if self.count in self.numbers:
            self.keep(self.count, frame)
        self.count += 1

    def keep(self, number: int, frame: av.VideoFrame) -> None:
        """Take the frame with this number."""
        # A stream may change its size on the way: like ffmpeg, scale to the first one.
        self._size = self._size or (frame.width, frame.height)
        self._kept[number] = upright_rgb(frame, self._size)

    def frames(self) -> NDArray[np.uint8]:
        """(10, H, W, 3) uint8, RGB."""
        return np.stack([self._kept[number] for number in self.numbers])


def upright_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> Picture:
    """(H, W, 3) uint8, RGB.

    Args:
        frame: decoded.
        size: width and height that it is scaled to, before it is turned.
    """
    return _upright(_rgb(frame, *size), frame)


def _rgb(frame: av.VideoFrame, width: int, height: int) -> Picture:
    """(H, W, 3), converted by the filter that the ffmpeg program uses.

    PyAV's own conversion ignores interlacing and the position of subsampled colours.
    """
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(
        source, graph.add("scale", f"{width}:{height}"), graph.add("format", "rgb24"), graph.add("buffersink")
    )
    graph.configure()
    graph.push(frame)
    converted = graph.pull()
    assert isinstance(converted, av.VideoFrame)
    return np.asarray(converted.to_ndarray(), dtype=np.uint8)


def _upright(picture: Picture, frame: av.VideoFrame) -> Picture:
    """Turn and mirror a picture as the file's display matrix says, to the nearest quarter turn.

    Source: ISO/IEC 14496-12, track header: a point (x, y) of the picture is shown at (a x + c y, b x + d y); phones
        write quarter turns, and their front cameras mirrored ones.
    """
    notes: Mapping[Any, Any] = frame.side_data
    if SideData.DISPLAYMATRIX not in notes:
        return picture
    matrix = np.frombuffer(bytes(notes[SideData.DISPLAYMATRIX]), dtype=np.int32)
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture = picture.transpose(1, 0, 2)
        across, down = c, b
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
