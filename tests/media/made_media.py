"""Media files of known content, for the tests of clips."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

TONE_HZ = 440.0


def media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    rate: int = 44100,
    layout: str = "stereo",
    size: tuple[int, int] = (64, 48),
    count: int = 50,
    fps: int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    keyframe_every: int | None = None,
) -> Path:
    """Frame i is one grey level, 5 * i; the sound is a tone of amplitude 0.5 in every channel."""
    with av.open(path, "w", options=options or {}) as container:
        if video is not None:
            pictures = container.add_stream(video, rate=fps)
            pictures.width, pictures.height = size
            pictures.pix_fmt = "yuv420p"
            pictures.bit_rate = 4_000_000
            if keyframe_every is not None:
                pictures.codec_context.gop_size = keyframe_every
        if audio is not None:
            sound = container.add_stream(audio, rate=rate)
            sound.layout = layout
            time_s = np.arange(rate * count // fps) / rate
            tone = (0.5 * np.sin(2 * np.pi * TONE_HZ * time_s)).astype(np.float32)
            channels = np.tile(tone, (av.AudioLayout(layout).nb_channels, 1))
            chunk = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
            chunk.sample_rate, chunk.pts, chunk.time_base = rate, 0, Fraction(1, rate)
            container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
        if video is not None:
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 5 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = (times[number] if times else number), Fraction(1, fps)
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
    return path


def grey(frames: NDArray[np.uint8]) -> list[int]:
    """Which frames of a clip of :func:`media` these are."""
    return [round(float(frame[8:-8, 8:-8].mean()) / 5) for frame in frames]


def tone_level(waveform: NDArray[np.float32]) -> tuple[float, float]:
    """Frequency and amplitude of the strongest tone."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return spectrum.argmax() * 16000 / len(middle), float(middle.std() * np.sqrt(2))


def write_wav(path: Path, waveform: np.ndarray) -> None:
    """Samples in [-1, 1] as 16-bit mono at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())
