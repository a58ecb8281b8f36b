"""Media files opened with PyAV, their errors as one line each, and the streams that a clip is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from kdcmae.errors import DataError
from kdcmae.media.kinds import Kind

__all__ = ["find_stream", "is_cover", "opened", "packets_of"]


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a media file for reading.

    Raises:
        DataError: no such file, not a media file, damaged; in one line that names the file. Also for errors
            of ffmpeg inside the ``with`` block.
    """
    _require_file(path)
    try:
        # An absolute path, lest ffmpeg takes "a:b.mp4" for a protocol; files only, lest a playlist opens the network.
        container = av.open(
            os.path.abspath(path), "r", metadata_errors="ignore", container_options={"protocol_whitelist": "file"}
        )
    except av.FFmpegError as error:
        raise DataError(f"{path}: {_why_unreadable(path, error)}") from error
    with container:
        try:
            yield container
        except av.FFmpegError as error:
            raise DataError(f"{path}: is truncated or damaged: {error.strerror}") from error


def find_stream(path: Path, container: InputContainer, kind: Kind) -> Stream:
    """The stream that ffmpeg would take: the one marked as default, or else the largest, or else the first.

    Raises:
        DataError: there is none, or ffmpeg lacks its codec.
    """
    streams: list[Stream] = [stream for stream in container.streams if stream.type == kind and not is_cover(stream)]
    if not streams:
        raise DataError(f"{path}: has no {kind} stream")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise DataError(f"{path}: its {kind} stream uses a codec that this build of ffmpeg cannot decode")
    return max(decodable, key=_rank)


def packets_of(container: InputContainer, streams: Sequence[Stream]) -> Iterator[av.Packet[Any]]:
    """The packets of some streams; packets of other streams are skipped if the format allows it."""
    wanted = {stream.index for stream in streams}
    for stream in container.streams:
        if stream.index not in wanted:
            stream.discard = Discard.all
    return container.demux(list(streams))


def is_cover(stream: Stream) -> bool:
    """A picture of a song's cover, which containers store as a video stream of one frame."""
    return bool(stream.disposition & Disposition.attached_pic)


def _rank(stream: Stream) -> tuple[bool, int]:
    codec: Any = stream.codec_context
    size = codec.channels if stream.type == "audio" else codec.width * codec.height
    return bool(stream.disposition & Disposition.default), size


def _require_file(path: Path) -> None:
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if not path.is_file():
            raise DataError(f"{path}: is a {'folder' if path.is_dir() else 'device or pipe'}, not a clip")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty (0 bytes)")
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error


def _why_unreadable(path: Path, error: av.FFmpegError) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror}"
    with path.open("rb") as file:
        if file.read(8)[4:8] == b"ftyp":
            return "is truncated: its index (the moov box of MP4 and MOV files) is missing"
    return "is not a media file, or its header is damaged"
