"""Pictures in files: JPEG for the frames of extracted clips, PNG for masks and figures, with PyAV."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from kdcmae.errors import DataError

__all__ = ["encode_image", "read_image", "write_image"]

_BEST_JPEG = 2  # the quantiser of ffmpeg's mjpeg runs from 1 to 31; below 2 files grow and look the same

_MOST_PIXELS = 150_000_000  # the largest sensors of phones have 108 million

# What ends a run of entropy-coded data: a marker that is neither a stuffed zero nor a restart.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_JFIF = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=np.float32)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: no such file, neither JPEG nor PNG, damaged or truncated.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path}: is empty (0 bytes)")
    if content.startswith(b"\xff\xd8"):
        name, end = "mjpeg", _jpeg_end(content)
    elif content.startswith(b"\x89PNG"):
        name, end = "png", _png_end(content)
    else:
        raise DataError(f"{path}: is neither a JPEG nor a PNG file")
    if end is None:
        raise DataError(f"{path}: is truncated: its end marker is missing")
    decoder = _codec(name, "r")
    # Otherwise ffmpeg fills what it cannot decode with grey, and takes a damaged size for gigabytes of pixels.
    decoder.options = {"err_detect": "explode", "max_pixels": str(_MOST_PIXELS)}
    try:
        pictures = [*decoder.decode(av.Packet(content[:end])), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise DataError(f"{path}: is damaged: {error.strerror}") from error
    if not pictures:
        raise DataError(f"{path}: is damaged: it holds no picture")
    return np.asarray(pictures[0].to_ndarray(format="rgb24"), dtype=np.uint8)


def write_image(path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> None:
    """Write a JPEG (.jpg, .jpeg; RGB, without chroma subsampling) or PNG (.png) file; its folder exists.

    Args:
        path: of the file; its suffix picks the format.
        picture: (H, W, 3) uint8 RGB, or (H, W) uint8 grey levels.

    Raises:
        DataError: another suffix, shape or dtype.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    kind: Literal["jpeg", "png"] = "jpeg" if suffix in (".jpg", ".jpeg") else "png"
    if suffix not in (".jpg", ".jpeg", ".png"):
        raise DataError(f"{path}: pictures are written as .jpg (RGB) or .png")
    path.write_bytes(encode_image(picture, kind))


def encode_image(picture: NDArray[np.uint8], kind: Literal["jpeg", "png"], *, quantiser: int = _BEST_JPEG) -> bytes:
    """A picture as the content of a JPEG (RGB, without chroma subsampling) or PNG file.

    Args:
        picture: (H, W, 3) uint8 RGB, or for PNG (H, W) uint8 grey levels.
        quantiser: of a JPEG, from 2 for the best picture to 31 for the smallest file.

    Raises:
        DataError: another shape or dtype.
    """
    shapes = ((3,),) if kind == "jpeg" else ((), (3,))
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in shapes:
        wanted = "(H, W, 3)" if kind == "jpeg" else "(H, W[, 3])"
        raise DataError(f"picture of shape {picture.shape} and dtype {picture.dtype} must be {wanted} uint8")
    if kind == "jpeg":
        encoder, layout, planes = _codec("mjpeg", "w"), "yuvj444p", _jpeg_colours(picture)
        encoder.qmin = encoder.qmax = quantiser
    else:
        encoder, layout, planes = _codec("png", "w"), "rgb24" if picture.ndim == 3 else "gray", picture
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = layout, Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format=layout)
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _jpeg_end(content: bytes) -> int | None:
    """Where the first picture of a JPEG file ends; phones append others, or a film, and its header holds a thumbnail.

    Source: ITU-T T.81, annex B: segments state their length, but for the scans, which the next marker ends.
    """
    place = 2
    while match := _JPEG_MARKER.search(content, place):
        marker, place = match[0][1], match.end()
        if marker == 0xD9:
            return place
        if marker != 0x01:
            place += max(2, int.from_bytes(content[place : place + 2], "big"))
    return None


def _png_end(content: bytes) -> int | None:
    """Where a PNG file ends, which is behind its chunk IEND; whatever follows is none of it."""
    place = 8
    while place + 12 <= len(content):
        name = content[place + 4 : place + 8]
        place += 12 + int.from_bytes(content[place : place + 4], "big")
        if name == b"IEND":
            return place
    return None


def _jpeg_colours(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB -> (3, H, W) YCbCr as JFIF defines it, rounded: ffmpeg truncates, which darkens."""
    ycbcr = picture.astype(np.float32) @ _JFIF.T + np.array([0, 128, 128], dtype=np.float32)
    return np.round(ycbcr).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def _codec(name: str, mode: Literal["r", "w"]) -> VideoCodecContext:
    codec = CodecContext.create(name, mode)
    assert isinstance(codec, VideoCodecContext)
    return codec
