"""Damaged files of every kind: each is read or refused in one line, soon and in little memory."""

from __future__ import annotations

import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from made_grid import Case, cases, make
from made_media import media, write_wav

from kdcmae.data.clip import read_clip, read_waveform
from kdcmae.data.images import read_image, write_image
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import read_record
from kdcmae.data.shard_files import index_shards, read_whole_clips
from kdcmae.errors import DataError

pytestmark = pytest.mark.slow

Read = Callable[[Path], object]

_LONGEST_S = 5.0
_MUTANTS = 400


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with bytes changed anywhere or in its header, cut off, left out or put in."""
    damaged, place = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(("anywhere", "header", "cut", "left out", "put in"))
    if kind in ("anywhere", "header"):
        room = len(damaged) if kind == "anywhere" else min(600, len(damaged))
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(room)] = rng.randrange(256)
    elif kind == "cut":
        del damaged[place:]
    elif kind == "left out":
        del damaged[place : place + rng.randrange(1, 2000)]
    else:
        damaged[place:place] = rng.randbytes(rng.randrange(1, 400))
    return bytes(damaged)


def read_wav(path: Path) -> object:
    return read_record(ClipRecord(id="a", wav=path), "audio", (), seconds=1)


def read_tar(path: Path) -> object:
    return [dict(clip.members) for clip in (*index_shards([path]), *read_whole_clips(path))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Read]]:
    """One file of each container and codec of the grid, of sound alone, of pictures, and a shard; and its reader."""
    folder = tmp_path_factory.mktemp("whole")
    files: list[tuple[Path, Read]] = []
    kinds: dict[tuple[str, str, str], Case] = {}
    for case in cases():
        if {case.video, case.audio} <= av.codecs_available:
            kinds.setdefault((case.container, case.video, case.audio), case)
    for name, case in kinds.items():
        files.append((make(case, folder / f"{'-'.join(name)}.{case.container}"), read_clip))
    for name, codec in (("a.mp3", "mp3"), ("a.flac", "flac"), ("a.ogg", "flac"), ("a.m4a", "aac")):
        if codec in av.codecs_available:
            files.append((media(folder / name, video=None, audio=codec), read_waveform))
    write_wav(folder / "a.wav", np.zeros(3000))
    files.append((folder / "a.wav", read_wav))
    for name in ("a.jpg", "a.png"):
        write_image(folder / name, np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
        files.append((folder / name, read_image))
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "a.jpg", "a.jpg")
        archive.add(folder / "a.wav", "a.wav")
    return [*files, (folder / "a.tar", read_tar)]


def peak_mb() -> float:
    """Largest resident memory this process ever had; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def answer(read: Read, path: Path) -> str | None:
    """Why a file is refused; None if it is read."""
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_are_read_or_refused(seed: int, whole: list[tuple[Path, Read]], tmp_path: Path) -> None:
    rng, answers, before_mb = random.Random(seed), [], peak_mb()
    for number in range(_MUTANTS // 2):
        path, read = whole[number % len(whole)]
        mutant = tmp_path / f"mutant{path.suffix}"
        mutant.write_bytes(mutated(path.read_bytes(), rng))
        start = time.process_time()
        answers.append(answer(read, mutant))
        assert time.process_time() - start < _LONGEST_S, (path.name, number)
    refused = [reason for reason in answers if reason is not None]
    assert 0.2 * len(answers) < len(refused) < len(answers)
    assert not any("\n" in reason for reason in refused)
    assert peak_mb() - before_mb < 1000
