"""Damaged files of every kind: each is read or refused in one line, soon and in little memory."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from made_grid import Case, cases, make
from made_media import media, write_wav
from mutations import MUTANTS, Refusals, bounded, bytes_mutated

from kdcmae.cli import main
from kdcmae.data.clip import read_clip, read_waveform
from kdcmae.data.images import read_image, write_image
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import read_record
from kdcmae.data.shard_files import index_shards, read_whole_clips

pytestmark = pytest.mark.slow

Read = Callable[[Path], object]


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


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_are_read_or_refused(seed: int, whole: list[tuple[Path, Read]], tmp_path: Path) -> None:
    rng, refusals = random.Random(seed), Refusals()
    for number in range(MUTANTS):
        path, read = whole[number % len(whole)]
        mutant = tmp_path / f"mutant{path.suffix}"
        mutant.write_bytes(bytes_mutated(path.read_bytes(), rng))
        with bounded((path.name, number)):
            refusals.ask(partial(read, mutant))
    refusals.check(least=0.2)


def test_check_ends_with_a_table(whole: list[tuple[Path, Read]], tmp_path: Path) -> None:
    """Over a folder of every file, and a damaged one of each."""
    rng = random.Random(5)
    files = [path for path, _ in whole if path.suffix != ".tar"]  # beside shards nothing else is a clip
    for path in files:
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / f"damaged-{path.name}").write_bytes(bytes_mutated(path.read_bytes(), rng))
    result = CliRunner().invoke(main, ["data", "check", str(tmp_path), "--processes", "1"])
    assert result.exit_code == 1
    assert "--traceback" not in result.stderr
    head, _, *rows, summary = result.stdout.splitlines()
    assert head.split() == ["clip", "problem", "detail"]
    assert f"of {2 * len(files)} clips are fine" in summary
    assert len(rows) > 5
    assert not summary.startswith("0 ")
