"""Truncation that the headers of RIFF, CAF, MP3 and Ogg files prove and ffmpeg does not report."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["damaged_page", "missing_bytes", "open_ended", "states_frames", "states_size"]

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

_UNKNOWN = 0x7FFF0000  # writers into a pipe state 0x7ffff000, 0x80000000, 0xffffffff or similar sizes


def missing_bytes(path: Path) -> int:
    """How many bytes the sound of a WAV or CAF file, the streams of an AVI file or an Ogg file's last page lack."""
    with path.open("rb") as file:
        head = file.read(12)
        size = path.stat().st_size
        ends = {b"RIFF": _riff_end, b"caff": _caf_end, b"OggS": _ogg_end}
        return max(0, ends[head[:4]](file) - size) if head[:4] in ends else 0


def damaged_page(path: Path) -> int | None:
    """Position of the first page of an Ogg file that fails its checksum; ffmpeg drops such pages silently.

    Returns:
        The byte that it begins at; None for a file whose pages are whole, one after the other to its end.

    Source: RFC 3533, section 6: the checksum is a CRC-32 of polynomial 0x04c11db7 over the page with a checksum of 0.
    """
    with path.open("rb") as file:
        place = 0
        while len(head := file.read(27)) == 27 and head[:4] == b"OggS":
            sizes = file.read(head[26])
            page = head[:22] + bytes(4) + head[26:] + sizes + file.read(sum(sizes))
            if _ogg_checksum(page) != int.from_bytes(head[22:26], "little"):
                return place
            place += len(page)
        file.seek(place)
        return place if b"OggS" in file.read() else None  # tags of other kinds may follow the last page


def _ogg_checksum(page: bytes) -> int:
    """zlib computes the same checksum with the bits of every byte, and of the result, in reverse order."""
    reversed_checksum = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_checksum:032b}"[::-1], 2)


def open_ended(stated: int) -> bool:
    """Whether a size in a RIFF file is a placeholder of a writer that did not know it."""
    return stated == 0 or stated >= _UNKNOWN


def states_size(path: Path) -> bool:
    """Whether the writer of a RIFF file knew its size, and with it the lengths of its streams, in the end."""
    with path.open("rb") as file:
        head = file.read(12)
        return not open_ended(int.from_bytes(head[4:8], "little"))


def states_frames(path: Path) -> bool:
    """Whether an MP3 file has a header that counts its frames; without one ffmpeg guesses from the bit rate."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:  # 7 bits each
                size = size << 7 | byte & 0x7F
            file.seek(10 + size)
        else:
            file.seek(0)
        start = file.read(4096)
    return any(mark in start for mark in (b"Xing", b"Info", b"VBRI"))


def _riff_end(file: BinaryIO) -> int:
    """Where the chunk that holds the samples or the pictures ends; 0 if it is not there or its size is unknown."""
    position = 12
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        position += 8
        if name == b"data" or (name == b"LIST" and file.read(4) == b"movi"):
            return 0 if open_ended(size) else position + size
        position += size + size % 2
        file.seek(position)
    return 0


def _caf_end(file: BinaryIO) -> int:
    """Where the chunk that holds the samples ends; 0 if it is not there or its size is unknown, which is -1."""
    position = 8
    file.seek(position)
    while len(head := file.read(12)) == 12:
        name, size = struct.unpack(">4sq", head)
        position += 12 + max(0, size)
        if name == b"data" or size < 0:
            return 0 if size < 0 else position
        file.seek(position)
    return 0


def _ogg_end(file: BinaryIO) -> int:
    """Where the last page ends by its own header: 27 bytes, and the number of segments, and their sizes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 0x20000))  # a page has at most 65,307 bytes
    start, tail = file.tell(), file.read()
    page = tail.rfind(b"OggS\x00")
    if page < 0 or page + 27 > len(tail):
        return 0
    sizes = tail[page + 27 : page + 27 + tail[page + 26]]
    return start + page + 27 + tail[page + 26] + sum(sizes)
