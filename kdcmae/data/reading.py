"""A clip's files -> its sound and frames. Never imports torch, so that processes that only read start quickly."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import Modality
from kdcmae.data.clip import read_clip, read_frames, read_waveform
from kdcmae.data.images import read_image
from kdcmae.data.manifest import ClipRecord, frame_path
from kdcmae.data.shard_files import ShardClip, spooled
from kdcmae.errors import DataError
from kdcmae.runtime.resampling import SAMPLE_RATE_HZ

__all__ = ["RawClip", "Reader", "read_record"]


@dataclass(frozen=True, eq=False)
class RawClip:
    """What was read of a clip: (S,) float32 at 16 kHz, and one (H, W, 3) uint8 array per frame asked for."""

    waveform: NDArray[np.float32] | None
    frames: Sequence[NDArray[np.uint8]]


class Reader(Protocol):
    """Gets the sound and some frames of a clip."""

    def __call__(self, record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
        """Read what the modality needs.

        Raises:
            DataError: the clip cannot be used.
        """


def read_record(record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
    """Read a clip: decode its video, or its extracted sound and frames, or what a shard holds. See :class:`Reader`."""
    if isinstance(record, ShardClip):
        return _from_shard(record, modality, frame_numbers)
    if record.video is not None:
        return _decode(record.video, modality, frame_numbers)
    waveform, frames = None, []
    if modality != "video":
        if record.wav is None:
            raise DataError("its manifest names no wav")
        waveform = _read_wav(record.wav)
    if modality != "audio":
        if record.frames_folder is None:
            raise DataError("its manifest names no video_path")
        frames = [read_image(frame_path(record.frames_folder, record.id, number)) for number in frame_numbers]
    return RawClip(waveform, frames)


def _from_shard(clip: ShardClip, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
    """Read it as if from its files, which are written for this moment."""
    numbers = () if modality == "audio" else frame_numbers
    with TemporaryDirectory(prefix="kdcmae-") as folder:
        try:
            return read_record(spooled(clip, Path(folder), numbers), modality, numbers)
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from error


def _decode(path: Path, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
    if modality == "audio":
        return RawClip(read_waveform(path), ())
    if modality == "video":
        frames = read_frames(path)
        return RawClip(None, [frames[number] for number in frame_numbers])
    clip = read_clip(path)
    return RawClip(clip.waveform, [clip.frames[number] for number in frame_numbers])


def _read_wav(path: Path) -> NDArray[np.float32]:
    """A sound file; 16 kHz 16-bit mono, which extraction writes, without ffmpeg: that is 100 times as fast."""
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE_HZ):
                declared = file.getnframes()
                samples = np.frombuffer(file.readframes(declared), dtype="<i2")
                if len(samples) < declared:
                    raise DataError(f"{path}: is truncated: {len(samples)} of {declared} samples are there")
                return np.divide(samples, 32768, dtype=np.float32)
    except (wave.Error, EOFError, OSError):
        pass  # no plain WAV file: ffmpeg reads the other formats, and explains what is wrong
    return read_waveform(path)
