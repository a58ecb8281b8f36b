"""Video file -> 16 kHz mono waveform and ten RGB frames, with PyAV.

A clip that cannot be decoded to its end raises an error; nothing is replaced by silence or black frames. A file is read
twice: once without decoding, to count its frames and to detect truncation, and once to decode it. Of a long file, and
of any file of which only some of the ten frames are wanted, only the requested part is decoded: the first seconds of
sound, and the pictures from the keyframe before each wanted frame up to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.media.container import find_stream, opened, packets_of
from kdcmae.media.decoding import decodable, require_intact
from kdcmae.media.extent import Track, require_decoded, survey
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP, frames_between
from kdcmae.media.frames import Spread
from kdcmae.media.kinds import Kind
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono
from kdcmae.media.seeking import sought
from kdcmae.media.sound import MonoSound

__all__ = [
    "Clip",
    "Decoded",
    "decode",
    "is_clip",
    "read_clip",
    "read_frames",
    "read_waveform",
]

_IN_ONE_GO = 3000  # frames, two minutes: in a longer video, seeking ten frames is faster than decoding all of them


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A decoded clip.

    Args:
        path: the file.
        waveform: (S,) float32 in [-1, 1], mono.
        sample_rate_hz: of the waveform, 16000.
        frames: (10, H, W, 3) uint8, RGB, upright, evenly spread over the time of the waveform; or those asked for.
    """

    path: Path
    waveform: NDArray[np.float32]
    sample_rate_hz: int
    frames: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What :func:`decode` returns; the sound goes to its callback.

    Args:
        frames: (10, H, W, 3) uint8, RGB, upright, or those asked for; None where only sound was asked for.
        duration_s: of the longest stream asked for, in seconds.
    """

    frames: NDArray[np.uint8] | None
    duration_s: float


def read_clip(
    path: str | os.PathLike[str],
    *,
    seconds: float | None = None,
    mono: Mono = "mean",
    threads: int = 0,
    frame_numbers: Sequence[int] = range(FRAMES_PER_CLIP),
) -> Clip:
    """Decode the sound and ten frames of a video file, or some of the ten.

    Args:
        path: any container and codec ffmpeg knows, any sample rate and number of channels.
        seconds: of the clip, from the start of its sound; None for all of it. The frames are those of the same time.
        mono: how several channels become one.
        threads: of each decoder; 0 for one per core. The result does not depend on it.
        frame_numbers: which of the ten frames, counted from 0. If they are not all, pictures that no wanted frame needs
            are not decoded, and damage in them is not noticed. The frames are the same.

    Raises:
        DataError: no such file, not a media file, no audio or video stream, damaged or truncated.

    Source: frame i is number i * n // 10 of n decoded frames. The published extraction takes those of the first ten
        seconds, n = min(all, 10 * frames per second), and all of the sound, of which its model hears 10.24 s.
    """
    parts: list[NDArray[np.float32]] = []
    decoded = decode(
        path,
        ("audio", "video"),
        parts.append,
        seconds=seconds,
        mono=mono,
        threads=threads,
        frame_numbers=frame_numbers,
    )
    assert decoded.frames is not None
    return Clip(path=Path(path), waveform=np.concatenate(parts), sample_rate_hz=SAMPLE_RATE_HZ, frames=decoded.frames)


def read_waveform(
    path: str | os.PathLike[str], *, seconds: float | None = None, mono: Mono = "mean", threads: int = 0
) -> NDArray[np.float32]:
    """Decode only the sound: (S,) float32, 16 kHz mono. Otherwise as :func:`read_clip`."""
    parts: list[NDArray[np.float32]] = []
    decode(path, ("audio",), parts.append, seconds=seconds, mono=mono, threads=threads)
    return np.concatenate(parts)


def read_frames(path: str | os.PathLike[str], *, seconds: float | None = None, threads: int = 0) -> NDArray[np.uint8]:
    """Decode only the ten frames: (10, H, W, 3) uint8 RGB. Otherwise as :func:`read_clip`."""
    frames = decode(path, ("video",), seconds=seconds, threads=threads).frames
    assert frames is not None
    return frames


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Whether a file contains sound or pictures, judged by its content."""
    try:
        with opened(Path(path)) as container:
            return any(stream.type in ("audio", "video") for stream in container.streams)
    except DataError:
        return False


def decode(
    path: str | os.PathLike[str],
    kinds: Sequence[Kind],
    take: Callable[[NDArray[np.float32]], object] = lambda samples: None,
    *,
    seconds: float | None = None,
    mono: Mono = "mean",
    threads: int = 0,
    frame_numbers: Sequence[int] = range(FRAMES_PER_CLIP),
) -> Decoded:
    """Decode sound, frames or both, passing the sound on in blocks. Arguments and errors as of :func:`read_clip`, and:

    Args:
        kinds: ``audio``, ``video`` or both.
        take: gets the sound a block at a time, (S,) float32, 16 kHz mono; in another thread if not all frames are
            wanted.
    """
    path = Path(path)
    tracks = survey(path, *kinds)
    sound = MonoSound(path, take, None if seconds is None else math.ceil(seconds * SAMPLE_RATE_HZ), mono)
    sinks: dict[Kind, _Sink] = {"audio": sound} if "audio" in kinds else {}
    frames = None
    if "video" in kinds:
        track = tracks["video"]
        pictures = Spread(track.packets, _span(tracks, seconds))
        wanted = [pictures.numbers[number] for number in frame_numbers]
        if not set(range(FRAMES_PER_CLIP)) <= set(frame_numbers):
            with ThreadPoolExecutor(1) as pool:  # decoders release Python's lock
                hearing = pool.submit(_run, path, {kind: sinks.pop(kind) for kind in list(sinks)}, threads)
                frames = sought(path, track, wanted, threads, as_counted=True)
                hearing.result()
        elif track.packets > _IN_ONE_GO or pictures.span[1] < track.packets:
            frames = sought(path, track, wanted, threads)
        if frames is None:
            sinks["video"] = pictures
    _run(path, sinks, threads)
    sound.finish()
    if "audio" in kinds and not sound.count:
        raise DataError(f"{path}: the audio stream holds no samples")
    if "audio" in kinds and not sound.done:
        require_decoded(path, tracks["audio"], sound.heard_s)
    if "video" in sinks:
        frames = _complete(path, pictures, threads)[list(frame_numbers)]
    return Decoded(frames, max(track.duration_s for track in tracks.values()))


def _span(tracks: Mapping[Kind, Track], seconds: float | None) -> tuple[int, int] | None:
    """The frames shown during the requested seconds of sound; None for all frames, if the clip is not longer."""
    if seconds is None or max(track.duration_s for track in tracks.values()) <= seconds:
        return None
    start_s = tracks.get("audio", tracks["video"]).shown_from_s
    return frames_between(tracks["video"].shown_s(), start_s, start_s + seconds)


class _Sink(Protocol):
    """Receives the decoded frames of one stream until it has enough."""

    @property
    def done(self) -> bool: ...

    def add(self, frame: Any) -> None: ...


def _complete(path: Path, pictures: Spread, threads: int) -> NDArray[np.uint8]:
    """The ten frames, decoded again in the rare file whose packets are not one frame each."""
    if pictures.count == 0:
        raise DataError(f"{path}: the video stream holds no frames")
    if pictures.count != pictures.expected:
        first, end = (number * pictures.count // pictures.expected for number in pictures.span)
        pictures = Spread(pictures.count, (first, max(end, first + 1)))
        _run(path, {"video": pictures}, threads)
    return pictures.frames()


def _run(path: Path, sinks: Mapping[Kind, _Sink], threads: int) -> None:
    """Decode one stream into each sink, in one pass over the file."""
    if not sinks:
        return
    with opened(path) as container:
        streams = {kind: decodable(find_stream(path, container, kind), threads) for kind in sinks}
        sink_of = {streams[kind].index: sink for kind, sink in sinks.items()}
        for packet in packets_of(container, list(streams.values())):
            # Not packet.stream_index: packets that flush a decoder have 0 there, whichever stream they are of.
            sink = sink_of[packet.stream.index]
            if sink.done:
                if all(other.done for other in sinks.values()):
                    break
                continue
            for frame in packet.decode():
                require_intact(path, frame)
                sink.add(frame)
