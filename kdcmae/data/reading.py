"""Read a clip's sound and frames from its files. Never imports torch, so that reader processes start quickly."""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import Modality
from kdcmae.data.images import read_image
from kdcmae.data.manifest import ClipRecord, frame_path
from kdcmae.data.shard_files import ShardClip, spooled
from kdcmae.errors import DataError
from kdcmae.media.clip import decode
from kdcmae.media.endings import missing_bytes, open_ended
from kdcmae.media.kinds import KINDS
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["RawClip", "Reader", "read_record", "reader_for"]


@dataclass(frozen=True, eq=False)
class RawClip:
    """The sound and frames read from a clip.

    Args:
        waveform: (S,) float32 at 16 kHz.
        frames: one (H, W, 3) uint8 array per frame asked for.
        duration_s: of the whole clip, if known; the waveform may cover only its start.
    """

    waveform: NDArray[np.float32] | None
    frames: Sequence[NDArray[np.uint8]]
    duration_s: float | None = None


class Reader(Protocol):
    """Reads the sound and some frames of a clip."""

    def __call__(self, record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
        """Read the sound, the frames or both, as the modality requires.

        Raises:
            DataError: the clip cannot be used.
        """


def reader_for(preprocessing: Preprocessing) -> Reader:
    """A reader of the first seconds of each clip, as long as the model's input.

    Args:
        preprocessing: the model's.
    """
    return partial(read_record, seconds=preprocessing.window_s, mono=preprocessing.mono)


def read_record(
    record: ClipRecord,
    modality: Modality,
    frame_numbers: Sequence[int],
    *,
    seconds: float | None = None,
    mono: Mono = "mean",
) -> RawClip:
    """Read a clip: decode its video, or its extracted sound and frames, or what a shard holds. See :class:`Reader`.

    Args:
        modality: whether sound, frames or both are read.
        frame_numbers: of the clip's ten frames.
        seconds: of the clip, from the start of its sound; None for all of it. Frames that were extracted stay those
            that the extraction took.
        mono: how several channels become one.
    """
    if isinstance(record, ShardClip):
        return _from_shard(record, modality, frame_numbers, seconds, mono)
    if record.video is not None:
        return _decode(record.video, modality, frame_numbers, seconds, mono)
    waveform, duration_s, frames = None, None, []
    if modality != "video":
        if record.wav is None:
            raise DataError("its manifest names no wav")
        waveform, duration_s = _read_sound(record.wav, seconds, mono)
    if modality != "audio":
        if record.frames_folder is None:
            raise DataError("its manifest names no video_path")
        frames = [read_image(frame_path(record.frames_folder, record.id, number)) for number in frame_numbers]
    return RawClip(waveform, frames, duration_s)


def _from_shard(
    clip: ShardClip, modality: Modality, frame_numbers: Sequence[int], seconds: float | None, mono: Mono
) -> RawClip:
    """Write the members of a clip to temporary files and read those."""
    if clip.flaw is not None:
        raise DataError(clip.flaw)
    numbers = () if modality == "audio" else frame_numbers
    with TemporaryDirectory(prefix="kdcmae-") as folder:
        try:
            return read_record(spooled(clip, Path(folder), numbers), modality, numbers, seconds=seconds, mono=mono)
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from error


def _decode(path: Path, modality: Modality, frame_numbers: Sequence[int], seconds: float | None, mono: Mono) -> RawClip:
    parts: list[NDArray[np.float32]] = []
    decoded = decode(path, KINDS[modality], parts.append, seconds=seconds, mono=mono, frame_numbers=frame_numbers)
    waveform = np.concatenate(parts) if parts else None
    return RawClip(waveform, () if decoded.frames is None else tuple(decoded.frames), decoded.duration_s)


def _read_sound(path: Path, seconds: float | None, mono: Mono) -> tuple[NDArray[np.float32], float]:
    """The sound of a file, and its length in seconds.

    16 kHz 16-bit mono, which extraction writes, is read without ffmpeg: that is 100 times as fast.
    """
    try:
        with wave.open(str(path)) as file:
            shape = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            stated = file.getnframes()
            if shape == (1, 2, SAMPLE_RATE_HZ) and not open_ended(2 * stated):
                if missing := missing_bytes(path):
                    raise DataError(f"{path}: is truncated: {missing} bytes are missing at its end")
                wanted = stated if seconds is None else min(stated, math.ceil(seconds * SAMPLE_RATE_HZ))
                samples = np.frombuffer(file.readframes(wanted), dtype="<i2")
                return np.divide(samples, 32768, dtype=np.float32), stated / SAMPLE_RATE_HZ
    except (DataError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - no plain WAV file: ffmpeg reads the others, and explains what is wrong
        pass
    parts: list[NDArray[np.float32]] = []
    duration_s = decode(path, ("audio",), parts.append, seconds=seconds, mono=mono).duration_s
    return np.concatenate(parts), duration_s
