"""How decoders are set up, and what they must not conceal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import av
from av.stream import Stream

from kdcmae.errors import DataError

__all__ = ["decodable", "require_intact"]

# What these decoders ignore or fill with grey unless they are told to check it. Most others flag the frames that they
# had to conceal something in; that HEVC, VP8, VP9, MP3 or Opus was damaged nothing tells.
_STRICT = {
    "mjpeg": "explode",
    **dict.fromkeys(("flac", "ac3", "eac3", "tta", "wavpack", "ape"), "crccheck+explode"),
}

AnyStream = TypeVar("AnyStream", bound=Stream)


def decodable(stream: AnyStream, threads: int) -> AnyStream:
    """The stream, its decoder set up.

    Args:
        stream: not yet decoded from.
        threads: of the decoder; 0 for one per core.
    """
    codec = stream.codec_context
    codec.thread_type = "AUTO"
    codec.thread_count = threads
    if codec.name in _STRICT:
        codec.options = {"err_detect": _STRICT[codec.name]}
    return stream


def require_intact(path: Path, frame: Any) -> None:
    """Refuse a frame that the decoder could not decode and made up.

    Raises:
        DataError: it is one.
    """
    if frame.is_corrupt:
        kind = "picture" if isinstance(frame, av.VideoFrame) else "sound"
        place = "" if frame.time is None else f" at {frame.time:.2f} s"
        raise DataError(f"{path}: is damaged: the {kind}{place} cannot be decoded whole")
