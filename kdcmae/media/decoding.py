"""Set up decoders so that they report damage instead of concealing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import av
from av.stream import Stream

from kdcmae.errors import DataError
from kdcmae.media.resampling import HIGHEST_RATE_HZ, LOWEST_RATE_HZ

__all__ = ["decodable", "require_intact"]

# Errors that these decoders ignore or fill with grey unless they are asked to detect them. Most other decoders flag the
# frames in which they concealed an error. Damage in HEVC, VP8, VP9, MP3 and Opus streams cannot be detected.
_STRICT = {
    "mjpeg": "explode",
    **dict.fromkeys(("flac", "ac3", "eac3", "tta", "wavpack", "ape"), "crccheck+explode"),
}

_MOST_PIXELS = str(2**26)  # 8K has half as many; a damaged header may ask for gigabytes

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
    options = {"err_detect": _STRICT[codec.name]} if codec.name in _STRICT else {}
    if stream.type == "video":
        options["max_pixels"] = _MOST_PIXELS
    codec.options = options
    return stream


def require_intact(path: Path, frame: Any) -> None:
    """Refuse a frame in which the decoder concealed an error, and sound with an impossible sample rate.

    Raises:
        DataError: such a frame.
    """
    if isinstance(frame, av.AudioFrame) and not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ:
        # A damaged header may state gigahertz, for which ffmpeg would compute a filter for minutes.
        raise DataError(f"{path}: is damaged: its sample rate of {frame.sample_rate} Hz is that of no sound")
    if frame.is_corrupt:
        kind = "picture" if isinstance(frame, av.VideoFrame) else "sound"
        place = "" if frame.time is None else f" at {frame.time:.2f} s"
        raise DataError(f"{path}: is damaged: the {kind}{place} cannot be decoded whole")
