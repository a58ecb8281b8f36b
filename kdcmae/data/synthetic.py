"""Clips made from arrays: real MP4 files with sound and moving pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.files.replacing import replacing

__all__ = ["demo_clip", "write_clip"]


def write_clip(
    path: str | os.PathLike[str],
    waveform: NDArray[np.float32],
    sample_rate_hz: int,
    frames: Iterable[NDArray[np.uint8]],
    fps: int | Fraction,
) -> None:
    """Write an MP4 file: H.264 (MPEG-4 part 2 where ffmpeg lacks x264) and AAC.

    The file appears under its name only when it is complete.

    Args:
        path: of the file; its folder exists.
        waveform: (S,) floating point in [-1, 1], mono.
        sample_rate_hz: one that AAC knows, such as 16000, 44100 or 48000.
        frames: at least one (H, W, 3) uint8 RGB, all of one size, H and W even; taken one at a time.

    Raises:
        DataError: frames or waveform of another shape or dtype, or a sample rate the encoder refuses.
    """
    if fps <= 0:
        raise DataError(f"fps={fps} must be positive")
    path = Path(path)
    try:
        with replacing(path) as partial, av.open(os.path.abspath(partial), "w", format="mp4") as container:
            _encode(container, _checked_waveform(waveform), sample_rate_hz, _checked_frames(frames), fps)
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror} ({sample_rate_hz} Hz, {fps} frames/s)") from error


def demo_clip(path: str | os.PathLike[str], seconds: float = 4.0, seed: int = 0) -> None:
    """Write a short clip: a coloured disc moves over a gradient, and a tone rises and falls with it.

    Args:
        path: of the MP4 file; its folder exists.
        seed: picks the colours, the path of the disc and the range of the tone.
    """
    fps, sample_rate_hz = 25, 48_000
    rng = np.random.default_rng(seed)
    colour, ground = rng.permutation([255, 144, 32]), rng.integers(0, 96, 3)
    turns, phase, low_hz = rng.uniform(0.5, 1.5), rng.uniform(0, 2 * np.pi), rng.uniform(200, 400)

    def height(time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.5 + 0.4 * np.sin(2 * np.pi * turns * time_s / seconds + phase)

    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    frequency_hz = low_hz * 4 ** height(time_s)  # two octaves from bottom to top
    waveform = 0.5 * np.sin(2 * np.pi * np.cumsum(frequency_hz) / sample_rate_hz)
    times_s = np.arange(max(1, round(seconds * fps))) / fps
    frames = (_disc(t / seconds, h, colour, ground) for t, h in zip(times_s, height(times_s), strict=True))
    write_clip(path, waveform.astype(np.float32), sample_rate_hz, frames, fps)


def _disc(x: float, y: float, colour: NDArray[np.int64], ground: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A 320 x 240 frame with a disc at (x, y), both from 0 to 1, y upwards."""
    rows, columns = np.mgrid[0:240, 0:320]
    inside = (columns - 320 * x) ** 2 + (rows - 240 * (1 - y)) ** 2 < 30**2
    gradient = ground + 0.3 * (rows + columns)[..., None] / 2
    return np.where(inside[..., None], colour, gradient).astype(np.uint8)


def _encode(
    container: av.container.OutputContainer,
    waveform: NDArray[np.float32],
    sample_rate_hz: int,
    frames: Iterator[NDArray[np.uint8]],
    fps: int | Fraction,
) -> None:
    first = next(frames)
    video = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=fps)
    video.codec_context.thread_count = 1  # with more, the same frames give other bytes from run to run
    video.height, video.width = first.shape[:2]
    video.pix_fmt = "yuv420p"
    audio = container.add_stream("aac", rate=sample_rate_hz)
    audio.layout = "mono"

    sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
    sound.sample_rate = sample_rate_hz
    sound.pts, sound.time_base = 0, Fraction(1, sample_rate_hz)  # without these the sound starts 1024 samples late
    container.mux(audio.encode(sound))
    container.mux(audio.encode(None))
    for frame in chain([first], frames):
        container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(video.encode(None))


def _checked_waveform(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    if waveform.ndim != 1 or waveform.size == 0 or waveform.dtype.kind != "f":
        raise DataError(f"waveform of shape {waveform.shape} and dtype {waveform.dtype} must be (S,) floating point")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _checked_frames(frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise DataError(
                f"frame {number} of shape {frame.shape} and dtype {frame.dtype} must be (H, W, 3) uint8, "
                f"of the size of the first"
            )
        if frame.shape[0] % 2 or frame.shape[1] % 2:
            raise DataError(f"frames of {frame.shape[1]} x {frame.shape[0]} pixels cannot be H.264: both must be even")
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise DataError("a clip needs at least one frame")
