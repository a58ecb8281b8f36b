"""A small classifier as a checkpoint, the command line, and a cache of its own for every test."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.openvino import HINTS, native_precision

sys.path.insert(0, str(Path(__file__).parent))  # tests share the faults that breakages.py plants

SMALLEST = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder: not the user's, and empty."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KDCMAE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _quick_builds(quick_builds: None) -> None:
    """Every test of this folder builds engines quickly."""


@pytest.fixture(scope="session")
def smallest() -> KDCMAEClassifier:
    """A classifier that compiles in a second; not to be changed."""
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=("dog", "rain", "violin"), **SMALLEST).eval()


@pytest.fixture(scope="session")
def checkpoint(smallest: KDCMAEClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That classifier as a file."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(smallest, path)
    return path


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """``kdcmae-compile`` with these arguments."""
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def engine_of(
    checkpoint: Path,
    run: Callable[..., Result],
    accepted: dict[str, tuple[str, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Path]:
    """Engines of that classifier by target and precision, each built when a test first asks; not to be changed."""

    @functools.cache
    def built(target: str, precision: str) -> Path:
        folder = tmp_path_factory.mktemp("engine") / target
        options = accepted[precision] if target == "openvino" else ("--precision", precision)
        result = run("--target", target, *options, "--checkpoint", checkpoint, "--output", folder, "--no-cache")
        assert result.exit_code == 0, result.stderr
        return folder

    return built


@pytest.fixture(scope="session")
def engine(engine_of: Callable[[str, str], Path]) -> Path:
    """An OpenVINO engine of that classifier; not to be changed."""
    return engine_of("openvino", "fp32")


@pytest.fixture(scope="session")
def native() -> dict[str, str]:
    """What OpenVINO executes here, by the precision that is asked for; int8 is what is not quantised."""
    found = {precision: native_precision(precision, this_cpu()) for precision in HINTS}
    return {**found, "int8": found["bf16"]}


@pytest.fixture(scope="session")
def accepted(native: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The options that make OpenVINO build a precision here, whatever it executes in."""
    return {
        precision: ("--precision", precision, *(() if precision in (executed, "int8") else ("--execute-as", executed)))
        for precision, executed in native.items()
    }


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of more than 0.1 MB have their weights beside them, as those of more than 2 GB do."""
    monkeypatch.setattr("kdcmae.compile.export.LARGEST_FILE_BYTES", 100_000)
