"""Sound and frames with timestamps from files, pipes, cameras and microphones, through PyAV, as they are decoded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from kdcmae.errors import DataError, DeviceError, cause
from kdcmae.media.container import find_stream, opened, packets_of
from kdcmae.media.decoding import decodable, require_intact
from kdcmae.media.frames import upright_rgb
from kdcmae.media.kinds import Kind
from kdcmae.media.resampling import Mono, to_mono
from kdcmae.media.sound import channel_weights, channels_of

__all__ = ["Captured", "Source", "camera", "captured", "media_file", "microphone", "pipe"]


@dataclass(frozen=True, kw_only=True)
class _System:
    """How ffmpeg reads the devices of an operating system.

    Args:
        cameras, microphones: names of ffmpeg's formats, the preferred one first.
        camera, microphone: text of a device's name with a place for what the user gives.
        list_cameras, list_microphones: commands that list the devices.
    """

    cameras: tuple[str, ...]
    microphones: tuple[str, ...]
    camera: str
    microphone: str
    list_cameras: str
    list_microphones: str


_AVFOUNDATION = 'ffmpeg -f avfoundation -list_devices true -i ""'
_DSHOW = "ffmpeg -f dshow -list_devices true -i dummy"
_SYSTEMS = {
    "linux": _System(
        cameras=("v4l2",),
        microphones=("pulse", "alsa"),
        camera="{}",
        microphone="{}",
        list_cameras="v4l2-ctl --list-devices, or ls /dev/video*",
        list_microphones="arecord -L, or pactl list short sources",
    ),
    "darwin": _System(
        cameras=("avfoundation",),
        microphones=("avfoundation",),
        camera="{}:none",
        microphone="none:{}",
        list_cameras=_AVFOUNDATION,
        list_microphones=_AVFOUNDATION,
    ),
    "win32": _System(
        cameras=("dshow",),
        microphones=("dshow",),
        camera="video={}",
        microphone="audio={}",
        list_cameras=_DSHOW,
        list_microphones=_DSHOW,
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A block of sound or a frame.

    Args:
        time_s: of its start, by the source's own clock.
        duration_s: of a block of sound; 0 for a frame.
        samples: (channels, S), one or two channels; None for a frame.
        sample_rate_hz: of the samples.
        frame: returns (H, W, 3) uint8 RGB; None for sound.
    """

    time_s: float
    duration_s: float = 0.0
    samples: NDArray[Any] | None = None
    sample_rate_hz: int = 0
    frame: Callable[[], NDArray[np.uint8]] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to capture from.

    Args:
        name: shown to people.
        kinds: what is taken of it.
        opening: opens it.
        is_device: it delivers as time passes, and its timestamps begin anywhere.
    """

    name: str
    kinds: tuple[Kind, ...]
    opening: Callable[[], Any] = field(repr=False)
    is_device: bool = False


def media_file(path: str | os.PathLike[str], kinds: tuple[Kind, ...]) -> Source:
    """A media file."""
    return Source(name=str(path), kinds=kinds, opening=partial(opened, Path(path)))


def pipe(
    file: BinaryIO, kinds: tuple[Kind, ...], *, format: str | None = None, options: Mapping[str, str] | None = None
) -> Source:
    """A stream of bytes, such as standard input.

    Args:
        file: where they come from.
        kinds: what is taken of it.
        format: ffmpeg's name of the format; None to recognise it, which raw samples do not allow.
        options: of that format, such as ``sample_rate`` and ``ch_layout``.
    """
    return Source(name="the pipe", kinds=kinds, opening=partial(_open_pipe, file, format, dict(options or {})))


def camera(device: str, options: Mapping[str, str] | None = None) -> Source:
    """A camera, by the name that ffmpeg knows it by on this system."""
    return _device("camera", device, dict(options or {}))


def microphone(device: str, options: Mapping[str, str] | None = None) -> Source:
    """A microphone, by the name that ffmpeg knows it by on this system."""
    return _device("microphone", device, dict(options or {}))


def _device(what: str, device: str, options: dict[str, str]) -> Source:
    kind: Kind = "video" if what == "camera" else "audio"
    return Source(
        name=f"{what} {device}", kinds=(kind,), opening=partial(_open_device, what, device, options), is_device=True
    )


@contextmanager
def _open_pipe(file: BinaryIO, format: str | None, options: dict[str, str]) -> Iterator[InputContainer]:
    try:
        container = av.open(file, "r", format=format, options=options, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise DataError(
            f"the pipe cannot be read: {_reason(error)}; give it Matroska, as ffmpeg -f matroska - writes it, or say "
            "what it is with --format and --option"
        ) from error
    with container:
        yield container


@contextmanager
def _open_device(what: str, device: str, options: dict[str, str]) -> Iterator[InputContainer]:
    system = _SYSTEMS.get(sys.platform)
    if system is None:
        raise DeviceError(f"{what} {device}: the devices of {sys.platform} are not known here; use --pipe")
    is_camera = what == "camera"
    listing = system.list_cameras if is_camera else system.list_microphones
    formats = [name for name in (system.cameras if is_camera else system.microphones) if _has_format(name)]
    if not formats:
        raise DeviceError(f"{what} {device}: this PyAV reads no {what}; pipe from ffmpeg instead, with --pipe")
    reasons = []
    for name in formats:
        try:
            url = (system.camera if is_camera else system.microphone).format(device)
            container = av.open(url, "r", format=name, options=options)
        except (av.FFmpegError, ValueError) as error:
            reasons.append(f"{name}: {_reason(error)}")
            continue
        with container:
            yield container
        return
    raise DeviceError(f"{what} {device} cannot be opened ({'; '.join(reasons)}); list what there is with: {listing}")


def _reason(error: Exception) -> str:
    """ffmpeg's words, without its number for them."""
    return getattr(error, "strerror", None) or cause(error)


def _has_format(name: str) -> bool:
    return any(name in names.split(",") for names in av.formats_available)


def captured(source: Source, mono: Mono = "mean") -> Iterator[Captured]:
    """What a source delivers, in the order in which it is decoded.

    Args:
        source: what to read.
        mono: how more than two channels become one; fewer stay as they are.

    Raises:
        DataError: the source has no such stream, or is damaged.
        DeviceError: no such device.
    """
    with source.opening() as container:
        place = Path(source.name)
        streams = [decodable(find_stream(place, container, kind), 0) for kind in source.kinds]
        size: tuple[int, int] | None = None
        heard_s = 0.0
        try:
            for packet in packets_of(container, streams):
                for frame in packet.decode():
                    require_intact(place, frame)
                    if isinstance(frame, av.VideoFrame):
                        size = size or (frame.width, frame.height)
                        if frame.time is not None:
                            yield Captured(time_s=frame.time, frame=partial(upright_rgb, frame, size))
                    else:
                        samples, rate_hz = _few_channels(frame, mono), frame.sample_rate
                        start_s = heard_s if frame.time is None else frame.time
                        heard_s = start_s + samples.shape[1] / rate_hz
                        yield Captured(
                            time_s=start_s,
                            duration_s=samples.shape[1] / rate_hz,
                            samples=samples,
                            sample_rate_hz=rate_hz,
                        )
        except av.EOFError:
            return
        except av.FFmpegError as error:
            raise DataError(f"{source.name}: is damaged or went away: {error.strerror}") from error


def _few_channels(frame: av.AudioFrame, mono: Mono) -> NDArray[Any]:
    """One or two channels: of more, as in a file, the front ones have more weight, which only their layout tells."""
    samples = channels_of(frame)
    if len(samples) <= 2:
        return samples
    return to_mono(samples, mono, weights=channel_weights(frame.layout.name, len(samples)))[None]
