"""Media files of every order of streams, codec, extra stream and container that a grid of tests asks for."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

FRAMES, FPS = 30, 25
SIZE = (64, 48)
_RATE_HZ = 48000  # which every codec here knows
_STYLES = b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\nFormat: Text\n"

# Containers, and the pictures and sounds they hold. With delay, because frames are reordered, or because a decoder
# of several threads or one that primes itself gives them late: libx264, libvpx-vp9, aac, libopus, libmp3lame, flac,
# alac. Without: mpeg4, mjpeg, pcm.
_CONTAINERS: dict[str, tuple[Sequence[str], Sequence[str], str | None]] = {
    "mp4": (("libx264", "mpeg4"), ("aac", "alac", "flac"), "mov_text"),
    "mov": (("libx264", "mjpeg"), ("alac", "pcm_s16le"), "mov_text"),
    "mkv": (("libx264", "mpeg4"), ("flac", "aac", "libopus", "pcm_s16le"), "subrip"),
    "webm": (("libvpx-vp9",), ("libopus",), "webvtt"),
    "avi": (("mpeg4", "mjpeg"), ("libmp3lame", "pcm_s16le"), None),
    "ts": (("libx264",), ("aac", "libmp3lame"), None),
    "flv": (("libx264",), ("aac",), None),
}
_ORDERS = (("video", "audio"), ("audio", "video"))
_EXTRAS = ((), ("subtitle",), ("commentary", "preview"))


@dataclass(frozen=True)
class Case:
    """One file of the grid.

    Args:
        container: its suffix.
        video, audio: encoders.
        subtitle: encoder of subtitles.
        streams: in their order: ``video``, ``audio``, ``subtitle`` (which outlasts the clip), ``commentary`` and
            ``preview``, a second sound and a second, smaller picture.
    """

    container: str
    video: str
    audio: str
    subtitle: str | None
    streams: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.container}-{self.video}-{self.audio}-{'+'.join(self.streams)}"


def cases() -> Iterator[Case]:
    """The grid."""
    for container, (videos, audios, subtitle) in _CONTAINERS.items():
        for video, audio, order, extra in itertools.product(videos, audios, _ORDERS, _EXTRAS):
            if ("subtitle" in extra and subtitle is None) or ("preview" in extra and container == "flv"):
                continue
            streams = (*extra, *order) if "subtitle" in extra else (*order, *extra)
            yield Case(container, video, audio, subtitle, streams)


def make(case: Case, path: Path) -> Path:
    """Write the file; skips where this build of ffmpeg lacks an encoder."""
    for codec in (case.video, case.audio):
        if codec not in av.codecs_available:
            pytest.skip(f"this build of ffmpeg has no {codec}")
    with av.open(path, "w") as container:
        streams = {name: _added(container, name, case) for name in case.streams}
        packets = [packet for name, stream in streams.items() for packet in _encoded(name, stream)]
        for packet in packets:
            container.mux(packet)
    return path


def _added(container: av.container.OutputContainer, name: str, case: Case) -> av.stream.Stream:
    if name == "subtitle":
        assert case.subtitle is not None
        stream = container.add_stream(case.subtitle)
        stream.codec_context.subtitle_header = _STYLES
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    elif name in ("video", "preview"):
        stream = container.add_stream(case.video, rate=FPS)
        stream.width, stream.height = SIZE if name == "video" else (32, 32)
        stream.pix_fmt = "yuvj420p" if case.video == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if case.video == "libvpx-vp9":
            stream.options = {"cpu-used": "8", "deadline": "realtime"}
    else:
        stream = container.add_stream(case.audio, rate=_RATE_HZ)
        stream.layout = "stereo" if name == "audio" else "mono"
    return stream


def _encoded(name: str, stream: av.stream.Stream) -> Iterator[av.Packet]:
    if name == "subtitle":
        packet = av.Packet(b"\x00\x02hi" if stream.codec_context.name == "mov_text" else b"hi")
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 200
        packet.duration = 3000
        yield packet
    elif name in ("video", "preview"):
        for number in range(FRAMES):
            level = 8 * number if name == "video" else 255 - 8 * number
            picture = np.full((stream.height, stream.width, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            yield from stream.encode(frame)
        yield from stream.encode(None)
    else:
        yield from _encoded_sound(stream, 440 if name == "audio" else 1000)


def _encoded_sound(stream: av.stream.Stream, tone_hz: float) -> Iterator[av.Packet]:
    time_s = np.arange(_RATE_HZ * FRAMES // FPS) / _RATE_HZ
    channels = stream.layout.nb_channels
    tones = [0.3 * np.sin(2 * np.pi * (tone_hz + 100 * channel) * time_s) for channel in range(channels)]
    sound = av.AudioFrame.from_ndarray(np.array(tones, np.float32), format="fltp", layout=stream.layout.name)
    sound.sample_rate, sound.pts, sound.time_base = _RATE_HZ, 0, Fraction(1, _RATE_HZ)
    yield from stream.encode(sound)
    yield from stream.encode(None)


def require_ffmpeg() -> str:
    """The ffmpeg program, which PyAV does not bring along; skips, loudly, where it is missing."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("NOT COMPARED WITH FFMPEG: there is no ffmpeg program on the PATH (apt-get install ffmpeg)")
    return program


def ffmpegs(path: Path) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """What plain ffmpeg gives: 16 kHz mono samples (S,), and every frame (N, H, W, 3) of the case's size, upright."""
    sound, pictures = path.with_suffix(".s16"), path.with_suffix(".rgb")
    to_sound = ["-vn", "-sn", "-ac", "1", "-ar", "16000", "-f", "s16le", str(sound)]
    to_pictures = ["-an", "-sn", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", str(pictures)]
    command = [require_ffmpeg(), "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(path)]
    subprocess.run([*command, *to_sound, *to_pictures], check=True, timeout=60)
    frames = np.fromfile(pictures, np.uint8).reshape(-1, SIZE[1], SIZE[0], 3)
    return np.fromfile(sound, "<i2"), frames
