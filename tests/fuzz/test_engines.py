"""Damaged engine folders, device cards and checkpoints: each is loaded or refused in one line."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from mutations import MUTANTS, Refusals, bounded, bytes_mutated, json_mutated

import kdcmae
from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.cli import main
from kdcmae.compile.cli import main as compile_main
from kdcmae.runtime import load_engine

pytestmark = pytest.mark.slow

SMALLEST: dict[str, Any] = {
    **{"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32},
    "labels": ("dog", "rain", "violin"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(KDCMAEClassifier.from_preset("tiny", num_classes=3, **SMALLEST), path)
    return path


@pytest.fixture(scope="module")
def engine(quick_builds: None, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("engine") / "onnx"
    options = ("--target", "onnx", "--precision", "fp32", "--no-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCMAE_CACHE", str(folder.parent / "cache"))
        result = command(compile_main, "--checkpoint", checkpoint, "--output", folder, *options)
        assert result.exit_code == 0, result.stderr
        yield folder


def command(group: Any, *arguments: object) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def use(folder: Path) -> None:
    """What an app does."""
    with load_engine(folder, threads=1) as engine:
        engine.self_test()
        engine.executions()


@pytest.fixture
def mutant(engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(engine, tmp_path / "mutant"))


def test_manifests(engine: Path, mutant: Path) -> None:
    """Every command that reads engines takes one in turn."""
    rng, refusals = random.Random(1), Refusals()
    content = (engine / "manifest.json").read_bytes()
    for number in range(MUTANTS):
        (mutant / "manifest.json").write_bytes(json_mutated(content, rng))
        with bounded(number):
            if number % 8 == 0:
                refusals.ask_command(partial(command, main, "check", mutant, "--seconds", "0.01"))
            elif number % 8 == 1:
                refusals.ask_command(partial(command, compile_main, "inspect", mutant))
            elif number % 8 == 2:
                refusals.ask_command(partial(command, compile_main, "diff", engine, mutant))
            else:
                refusals.ask(partial(use, mutant))
    refusals.check(least=0.2)


def test_files_whose_digests_fit(engine: Path, mutant: Path) -> None:
    """As if whoever made the engine had made it so: digests do not help, and the library gets the damage."""
    rng, refusals = random.Random(2), Refusals()
    manifest = json.loads((engine / "manifest.json").read_text())
    names = sorted(name for name in manifest["files"] if "-" not in name)
    for number in range(MUTANTS):
        name = names[number % len(names)]
        content = bytes_mutated((engine / name).read_bytes(), rng)
        (mutant / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
        (mutant / "manifest.json").write_text(json.dumps(manifest))
        with bounded((name, number)):
            refusals.ask(partial(use, mutant))
        shutil.copy(engine / name, mutant / name)
        manifest["files"][name] = hashlib.sha256((engine / name).read_bytes()).hexdigest()
    refusals.check(least=0.2)


def test_device_cards(engine: Path, tmp_path: Path) -> None:
    rng, refusals = random.Random(3), Refusals()
    card = tmp_path / "card.json"
    assert command(main, "check", engine, "--seconds", "0.01", "--output", card).exit_code == 0
    content = card.read_bytes()
    from kdcmae.bench.cli import main as bench_main

    for number in range(MUTANTS):
        (tmp_path / "mutant.json").write_bytes(json_mutated(content, rng))
        with bounded(number):
            refusals.ask_command(partial(command, bench_main, "fleet", card, tmp_path / "mutant.json"))
    refusals.check(least=0.1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoints(suffix: str, checkpoint: Path, tmp_path: Path) -> None:
    rng, refusals = random.Random(4), Refusals()
    whole = checkpoint
    if suffix == ".pth":
        whole = tmp_path / "whole.pth"
        torch.save({"model": kdcmae.load_classifier(checkpoint).state_dict(), "epoch": 3}, whole)
    content = whole.read_bytes()
    for number in range(MUTANTS):
        mutant = tmp_path / f"mutant{suffix}"
        mutant.write_bytes(bytes_mutated(content, rng))
        with bounded(number):
            refusals.ask(partial(kdcmae.load_classifier, mutant))
    refusals.check(least=0.2)
