"""A very small model as checkpoint and engine, and clips for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))  # tests share predicting.py and help_examples.py
sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "tools"))  # which takes the walk over commands from there

from predicting import LABELS, SMALL

from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main as compile_main
from kdcmae.data.synthetic import write_clip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a checkpoint of a very small model."""

    def write(**overrides: Any) -> Path:
        torch.manual_seed(0)
        options = {"num_classes": len(LABELS), "labels": LABELS, **SMALL, **overrides}
        model = KDCMAEClassifier.from_preset("tiny", **options)
        path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
        save_checkpoint(model, path)
        return path

    return write


@pytest.fixture(scope="session")
def model(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint()


@pytest.fixture(scope="session")
def engine(quick_builds: None, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an ONNX engine for batches of 2 to 4: ten frames need several, one frame needs filling."""
    folder = tmp_path_factory.mktemp("engine") / "onnx"
    arguments = ["--target", "onnx", "--checkpoint", str(model), "--output", str(folder), "--batch", "2:3:4"]
    result = CliRunner().invoke(compile_main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def blocks(path: Path, frames: int, fps: int) -> Path:
    """A tone, and frames that look nothing like each other."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000 * frames // fps) / 16000)
    write_clip(path, tone.astype(np.float32), 16000, pictures.repeat(16, axis=1).repeat(16, axis=2), fps)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames in less than the 0.335 s that the model hears."""
    return blocks(tmp_path_factory.mktemp("clip") / "blocks [1].mp4", 10, 33)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds: eleven windows, each half over the next."""
    return blocks(tmp_path_factory.mktemp("clip") / "long.mp4", 50, 25)
