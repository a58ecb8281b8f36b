"""Extract 16 kHz sound and ten frames from videos in the published layout, so that training need not decode videos."""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.broken import BrokenClipError, clip_boundary
from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, write_manifest
from kdcmae.data.parallel import map_in_processes
from kdcmae.data.provenance import Source, Sources, source_of
from kdcmae.data.shard_files import ShardClip, spooled
from kdcmae.errors import DataError
from kdcmae.files.replacing import replacing
from kdcmae.media.clip import decode
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono
from kdcmae.runtime.preprocessing import Preprocessing, prepare_image

__all__ = ["MANIFEST_FILE", "SOURCES_FILE", "WINDOW_S", "Extraction", "extract"]

MANIFEST_FILE = "manifest.json"
SOURCES_FILE = "sources.jsonl"

WINDOW_S = Preprocessing().window_s  # of the published models

_VERSION = 3  # increase it when the same file would give other sound or frames


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What an extraction did.

    Args:
        extracted: clips decoded and written.
        kept: clips that an earlier run finished and this run reused.
        failed: the reason for each clip that could not be decoded, by its id.
    """

    extracted: int
    kept: int
    failed: dict[str, str]


def extract(
    records: Sequence[ClipRecord],
    folder: str | os.PathLike[str],
    *,
    image_size: int = 224,
    seconds: float = WINDOW_S,
    mono: Mono = "mean",
    processes: int = 1,
    on_clip: Callable[[], object] = lambda: None,
) -> Extraction:
    """Write ``audio/ID.wav``, ``frames/frame_{0..9}/ID.jpg``, ``sources.jsonl`` and ``manifest.json``.

    An interrupted run resumes. An extracted clip is reused only if ``sources.jsonl`` says that it was made from the
    current file, with the same settings and by this version of the extraction; otherwise it is extracted again.

    Args:
        records: of videos, in files or in shards.
        image_size: frames are resized to this short side and cropped to a square, as published; small ones are
            only cropped.
        seconds: of each clip that are extracted, from its start, its sound and its frames: what the model hears.
        mono: how several channels become one.
        on_clip: called after each clip.

    Raises:
        DataError: a record without a video or with an id that is no file's name, or no clip that can be decoded.
        DiskFullError: no space is left; finished clips remain.
    """
    folder = Path(folder)
    for record in records:
        if _file(record) is None:
            raise DataError(f"clip {record.id!r} has no video: give a manifest of videos, or shards of them")
        if "/" in record.id:
            raise DataError(f"clip {record.id!r} lies in a folder within the folder: list such clips in a manifest")
    for name in ("audio", *(f"frames/frame_{number}" for number in range(FRAMES_PER_CLIP))):
        (folder / name).mkdir(parents=True, exist_ok=True)
    facts = {"extraction": _VERSION, "image_size": image_size, "seconds": seconds, "mono": mono}
    sources = Sources(folder / SOURCES_FILE, facts)
    left = [record for record in records if not _is_done(record, folder, sources)]
    if any(record.id in sources for record in left):
        (folder / MANIFEST_FILE).unlink(missing_ok=True)  # it lists clips that are made anew, and are mixed meanwhile
    for _ in range(len(records) - len(left)):
        on_clip()
    failed = {}
    write = partial(_write, image_size=image_size, seconds=seconds, mono=mono)
    outcomes = map_in_processes(partial(_extract, folder, write), _begun(left, sources), processes=processes)
    with sources:
        for record, (source, reason) in zip(left, outcomes, strict=True):
            if reason is None:
                sources.add(record.id, source)
            else:
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


def _begun(records: Sequence[ClipRecord], sources: Sources) -> Iterator[ClipRecord]:
    """The clips to make, each noted before a process gets it: stopped in the middle, it is of two settings."""
    for record in records:
        sources.begin(record.id)
        yield record


def _is_done(record: ClipRecord, folder: Path, sources: Sources) -> bool:
    extracted, file = _extracted(record, folder), _file(record)
    assert file is not None
    assert extracted.wav is not None
    try:
        made = extracted.wav.exists() and all(path.exists() for path in extracted.frames)
        return made and sources.current(record.id, source_of(file))
    except OSError:  # what is wrong with its file or its name is told when it is read
        return False


def _extract(folder: Path, write: Callable[[Path, ClipRecord], None], record: ClipRecord) -> tuple[Source, str | None]:
    """Extract one clip: what it was made from, and why it could not be, if so."""
    source: Source = {}
    try:
        with clip_boundary(record.id):
            file = _file(record)
            assert file is not None
            source = source_of(file) if file.is_file() else {}  # before it is read
            with _video(record) as video:
                write(video, _extracted(record, folder))
    except BrokenClipError as error:
        return source, error.reason
    return source, None


def _file(record: ClipRecord) -> Path | None:
    """What a clip is made from: its video, or the shard that has it."""
    return record.shard if isinstance(record, ShardClip) else record.video


@contextmanager
def _video(record: ClipRecord) -> Iterator[Path]:
    """The video of a clip as a file, for this moment where it lies in a shard."""
    if not isinstance(record, ShardClip):
        assert record.video is not None
        yield record.video
        return
    if record.flaw is not None:
        raise DataError(record.flaw)
    with TemporaryDirectory(prefix="kdcmae-") as scratch:
        video = spooled(record, Path(scratch), ()).video
        if video is None:
            raise DataError(f"has no video, only {', '.join(record.members)}")
        yield video


def _write(video: Path, extracted: ClipRecord, *, image_size: int, seconds: float, mono: Mono) -> None:
    """Write the files of a clip; its sound goes to the disk as it is decoded, however long it is."""
    assert extracted.wav is not None
    with replacing(extracted.wav) as partial_wav:
        with wave.open(str(partial_wav), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            frames = decode(video, ("audio", "video"), partial(_append, file), seconds=seconds, mono=mono).frames
        assert frames is not None
        for path, frame in zip(extracted.frames, frames, strict=True):
            with replacing(path) as partial_path:
                write_image(partial_path, _square(frame, image_size))


def _append(file: wave.Wave_write, samples: NDArray[np.float32]) -> None:
    file.writeframesraw(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())


def _square(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the short side and crop the centre as the model's preprocessing does, but enlarge nothing."""
    side = min(size, *frame.shape[:2])
    as_shares = Preprocessing(image_size=side, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    shares = prepare_image(frame, as_shares)[0].transpose(1, 2, 0)
    return np.round(255 * shares).astype(np.uint8)
