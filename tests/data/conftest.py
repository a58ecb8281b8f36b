"""Clips on disk in the published layout, small and quick to make."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, frame_path

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))  # for made_media.py

from made_media import write_wav

LABELS = ("barking", "singing", "typing")

Extracted = Callable[..., list[ClipRecord]]
MembersOf = Callable[[ClipRecord], list[tuple[str, bytes]]]
WriteShard = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """Makes clips whose frame n is one grey level, 20 * n, and whose sound is noise of their own."""

    def make(count: int, seconds: float = 0.5) -> list[ClipRecord]:
        folder = tmp_path_factory.mktemp("extracted")
        (folder / "audio").mkdir()
        for number in range(10):
            (folder / "frames" / f"frame_{number}").mkdir(parents=True)
        records = []
        for index in range(count):
            record = ClipRecord(
                id=f"clip{index}",
                labels=(LABELS[index % 3],),
                wav=folder / "audio" / f"clip{index}.wav",
                frames_folder=folder / "frames",
            )
            sound = np.random.default_rng(index).uniform(-0.5, 0.5, round(16000 * seconds))
            assert record.wav is not None
            write_wav(record.wav, sound)
            for number in range(10):
                write_image(
                    frame_path(folder / "frames", record.id, number), np.full((40, 48, 3), 20 * number, np.uint8)
                )
            records.append(record)
        return records

    return make


def _members_of(record: ClipRecord) -> list[tuple[str, bytes]]:
    """What a shard holds of an extracted clip."""
    assert record.wav is not None
    frames = [(f"{record.id}.{number}.jpg", path.read_bytes()) for number, path in enumerate(record.frames)]
    facts = json.dumps({"labels": list(record.labels)}).encode()
    return [(f"{record.id}.json", facts), (f"{record.id}.wav", record.wav.read_bytes()), *frames]


def _write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            member = tarfile.TarInfo(f"clips/{name}")
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def members_of() -> MembersOf:
    return _members_of


@pytest.fixture(scope="session")
def write_shard() -> WriteShard:
    return _write_shard


@pytest.fixture(scope="session")
def records(extracted: Extracted) -> list[ClipRecord]:
    """Twelve clips."""
    return extracted(12)


@pytest.fixture(scope="session")
def shards(records: list[ClipRecord], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve clips in four shards."""
    folder = tmp_path_factory.mktemp("shards")
    return [
        _write_shard(folder / f"{number}.tar", [pair for record in records[number::4] for pair in _members_of(record)])
        for number in range(4)
    ]
