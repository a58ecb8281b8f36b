"""Threads that push what sources deliver into a stream: files at a pace, pipes, cameras and microphones."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdcmae.extras import VIDEO, require_installed
from kdcmae.runtime.streaming.stream import Stream

if TYPE_CHECKING:
    from kdcmae.media.capture import Captured, Source

__all__ = ["capturing"]


@contextmanager
def capturing(
    stream: Stream, sources: Sequence[Source], *, pace: float = 1.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Push sources into a stream, each in a thread of its own, as long as the ``with`` block runs.

    The stream is finished when the last source ends, so that iterating over it ends too. An error of a source also ends
    the stream, and is raised at the end of the block.

    Args:
        stream: takes them; closed at the end of the block.
        sources: of :mod:`kdcmae.media.capture`.
        pace: of files, times real time; 0 for as fast as the stream takes them.
        clock: seconds, for the pace and for the timestamps of devices.

    Raises:
        DataError: a source that cannot be used.
        DeviceError: no such device.
        MissingDependencyError: PyAV is not installed.
    """
    require_installed("av", install=VIDEO)
    errors: list[BaseException] = []
    began_s, stopped = clock(), threading.Event()
    running = len(sources)
    counting = threading.Lock()

    def run(source: Source) -> None:
        nonlocal running
        from kdcmae.media.capture import captured

        try:
            pieces = captured(source, stream.mono)
            if source.is_device:
                pieces = _as_it_comes(pieces, began_s, clock)
            elif pace:
                pieces = _paced(pieces, pace, clock, stopped)
            for piece in pieces:
                if stopped.is_set():
                    return
                _push(stream, piece)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes results
            errors.append(error)
        with counting:
            running -= 1
            if not running or errors:
                stream.finish()

    threads = [threading.Thread(target=run, args=(source,), daemon=True, name=source.name) for source in sources]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        stream.close()
        for thread in threads:
            thread.join(timeout=1.0)  # a device may block; its thread ends with the program
    if errors:
        raise errors[0]


def _push(stream: Stream, piece: Captured) -> None:
    if piece.samples is not None:
        stream.push_audio(piece.samples, piece.time_s, sample_rate=piece.sample_rate_hz)
    elif piece.frame is not None:
        stream.push_frame(piece.frame, piece.time_s)


def _as_it_comes(pieces: Iterator[Captured], began_s: float, clock: Callable[[], float]) -> Iterator[Captured]:
    """The pieces of a device, whose timestamps begin anywhere, by the clock that all devices share."""
    offset_s: float | None = None
    for piece in pieces:
        if offset_s is None:
            offset_s = clock() - began_s - piece.duration_s - piece.time_s
        yield dataclasses.replace(piece, time_s=piece.time_s + offset_s)


def _paced(
    pieces: Iterator[Captured], pace: float, clock: Callable[[], float], stopped: threading.Event
) -> Iterator[Captured]:
    """The pieces of a file, each when its time has come."""
    first_s: float | None = None
    began_s = clock()
    for piece in pieces:
        first_s = piece.time_s if first_s is None else first_s
        stopped.wait(max(0.0, (piece.time_s + piece.duration_s - first_s) / pace - (clock() - began_s)))
        yield piece
