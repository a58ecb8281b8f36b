"""Videos -> 16 kHz sound and ten frames in the published layout, so that training does not decode videos."""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.clip import FRAMES_PER_CLIP, read_clip
from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, write_manifest
from kdcmae.data.parallel import map_in_processes
from kdcmae.errors import DataError
from kdcmae.runtime.preprocessing import Preprocessing, prepare_image
from kdcmae.runtime.resampling import SAMPLE_RATE_HZ

__all__ = ["MANIFEST_FILE", "Extraction", "extract"]

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What an extraction did.

    Args:
        extracted: clips decoded and written.
        kept: clips that an earlier run had finished.
        failed: why, by the id of each clip that could not be decoded.
    """

    extracted: int
    kept: int
    failed: dict[str, str]


def extract(
    records: Sequence[ClipRecord],
    folder: str | os.PathLike[str],
    *,
    image_size: int = 224,
    processes: int = 1,
    on_clip: Callable[[], object] = lambda: None,
) -> Extraction:
    """Write ``audio/ID.wav``, ``frames/frame_{0..9}/ID.jpg`` and ``manifest.json``.

    A clip's sound appears last, and only when all of it is written: a run that was stopped goes on where it stood.

    Args:
        records: of videos.
        folder: made if need be.
        image_size: frames are resized to this short side and cropped to a square, as published; small ones are
            only cropped.
        processes: that decode.
        on_clip: called for each clip done.

    Raises:
        DataError: a record without a video, or no clip that can be decoded.
    """
    folder = Path(folder)
    for record in records:
        if record.video is None:
            raise DataError(f"clip {record.id!r} has no video: give a manifest of videos")
    for name in ("audio", *(f"frames/frame_{number}" for number in range(FRAMES_PER_CLIP))):
        (folder / name).mkdir(parents=True, exist_ok=True)
    left = [record for record in records if not _is_done(_extracted(record, folder))]
    reasons = map_in_processes(partial(_extract, folder, image_size), left, processes=processes)
    failed = {}
    for _ in range(len(records) - len(left)):
        on_clip()
    for record, reason in zip(left, reasons, strict=True):
        if reason is not None:
            failed[record.id] = reason
        on_clip()
    if len(failed) == len(records):
        raise DataError(f"none of {len(records)} clips can be decoded, such as {next(iter(failed.values()))}")
    done = [_extracted(record, folder) for record in records if record.id not in failed]
    write_manifest(folder / MANIFEST_FILE, done)
    return Extraction(extracted=len(left) - len(failed), kept=len(records) - len(left), failed=failed)


def _extracted(record: ClipRecord, folder: Path) -> ClipRecord:
    """The record of a clip in the new manifest."""
    return ClipRecord(
        id=record.id,
        labels=record.labels,
        wav=folder / "audio" / f"{record.id}.wav",
        frames_folder=folder / "frames",
    )


def _is_done(record: ClipRecord) -> bool:
    assert record.wav is not None
    return record.wav.exists() and all(path.exists() for path in record.frames)


def _extract(folder: Path, image_size: int, record: ClipRecord) -> str | None:
    """Extract one clip; why it could not be, if so."""
    assert record.video is not None
    try:
        clip = read_clip(record.video)
    except DataError as error:
        return str(error)
    extracted = _extracted(record, folder)
    assert extracted.wav is not None
    for path, frame in zip(extracted.frames, clip.frames, strict=True):
        _appear(path, partial(write_image, picture=_square(frame, image_size)))
    _appear(extracted.wav, partial(_write_wav, waveform=clip.waveform))
    return None


def _appear(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is there only once it is complete."""
    partial_path = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial_path)
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


def _square(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the short side and crop the centre as the model's preprocessing does, but enlarge nothing."""
    side = min(size, *frame.shape[:2])
    as_shares = Preprocessing(image_size=side, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    shares = prepare_image(frame, as_shares)[0].transpose(1, 2, 0)
    return np.round(255 * shares).astype(np.uint8)


def _write_wav(path: Path, waveform: NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(np.round(waveform * 32768).astype("<i2").tobytes())
