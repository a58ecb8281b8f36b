"""Damaged lists of clips, classes and expected outputs, and shards: each is read or refused in one line."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_media import media, write_wav
from mutations import MUTANTS, Refusals, bounded, bytes_mutated, json_mutated, text_mutated

from kdcmae.cli import main
from kdcmae.data.images import write_image
from kdcmae.data.manifest import LabelMap, frame_path
from kdcmae.labels import read_labels

pytestmark = pytest.mark.slow

CLASSES = 'index,mid,display_name\n0,/m/1,Dog\n1,/m/2,"Rain, heavy"\n2,/m/3,Violin\n'
Mutate = Callable[[bytes, random.Random], bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two extracted clips with ten frames each, listed in every format, and in a shard."""
    folder = tmp_path_factory.mktemp("lists")
    for number in range(10):
        (folder / f"frame_{number}").mkdir()
    entries = []
    for name in ("a", "b"):
        write_wav(folder / f"{name}.wav", np.random.default_rng(1).uniform(-0.5, 0.5, 20_000))
        for number in range(10):
            write_image(frame_path(folder, name, number), np.full((40, 40, 3), 20 * number, np.uint8))
        entries.append({"video_id": name, "wav": f"{name}.wav", "video_path": ".", "labels": "/m/1,/m/3"})
    (folder / "clips.json").write_text(json.dumps({"data": entries}))
    media(folder / "a.mp4", video="mpeg4")
    videos = [{"path": "a.mp4", "id": name, "labels": ["Dog", "Violin"]} for name in ("a", "b")]
    (folder / "clips.jsonl").write_text("".join(json.dumps(video) + "\n" for video in videos))
    (folder / "classes.csv").write_text(CLASSES)
    (folder / "classes.txt").write_text("Dog\nRain, heavy\nViolin\n")
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows((("path", "labels", "id"), ("a.mp4", "Dog; Violin", "a"), ("a.mp4", "Dog", "b")))
    return folder


def check(data: Path, labels: Path) -> Result:
    return CliRunner().invoke(main, ["data", "check", str(data), "--labels", str(labels), "--processes", "1"])


BY_TEXT = [(f"clips.{suffix}", text_mutated) for suffix in ("json", "jsonl", "csv")]


@pytest.mark.parametrize(("name", "mutate"), [("clips.json", json_mutated), *BY_TEXT])
def test_lists_of_clips(name: str, mutate: Mutate, folder: Path) -> None:
    rng, refusals = random.Random(name), Refusals()
    content = (folder / name).read_bytes()
    for number in range(MUTANTS):
        mutant = folder / f"mutant-{name}"
        mutant.write_bytes(mutate(content, rng))
        with bounded((mutant.read_bytes(), number)):
            refusals.ask_command(partial(check, mutant, folder / "classes.csv"))
    refusals.check(least=0.1)


@pytest.mark.parametrize("name", ["classes.csv", "classes.txt"])
def test_classes(name: str, folder: Path) -> None:
    rng, refusals = random.Random(name), Refusals()
    for number in range(MUTANTS):
        mutant = folder / f"mutant-{name}"
        mutant.write_bytes(text_mutated((folder / name).read_bytes(), rng))
        with bounded((mutant.read_bytes(), number)):
            refusals.ask(partial(read_labels, mutant))
            if refusals.said[-1] is None:
                names = read_labels(mutant)
                assert all(label.strip() == label and label.splitlines() == [label] for label in names), names
                assert len(LabelMap.read(mutant)) == len(names) > 0
    refusals.check(least=0.05)


def member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    shard.addfile(header, io.BytesIO(content))


def test_shards(folder: Path, tmp_path: Path) -> None:
    """Damage in the facts of a clip, and in the archive itself."""
    rng, refusals = random.Random(3), Refusals()
    facts = json.dumps({"labels": ["Dog", "Violin"]}).encode()
    for number in range(MUTANTS):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as shard:
            for name in ("a", "b"):
                member(shard, f"{name}.json", json_mutated(facts, rng) if number % 2 else facts)
                member(shard, f"{name}.wav", (folder / f"{name}.wav").read_bytes())
                for frame in range(10):
                    member(shard, f"{name}.{frame}.jpg", frame_path(folder, name, frame).read_bytes())
        content = archive.getvalue() if number % 2 else bytes_mutated(archive.getvalue(), rng)
        (tmp_path / "0.tar").write_bytes(content)
        with bounded(number):
            refusals.ask_command(partial(check, tmp_path, folder / "classes.csv"))
    refusals.check(least=0.1)
