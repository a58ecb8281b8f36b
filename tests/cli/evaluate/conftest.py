"""Clips, lists of them, and models for the tests of ``kdcmae evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main as compile_main
from kdcmae.data.images import write_image
from kdcmae.data.synthetic import write_clip

sys.path.insert(0, str(Path(__file__).parent))  # tests share evaluating.py

from evaluating import CLIPS, LABELS, SIZE, SMALL


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two classes, their masks, and one clip that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        tone = 0.5 * np.sin(2 * np.pi * 300 * (1 + number) * np.arange(16000) / 16000)
        write_clip(folder / f"clip{number}.mp4", tone.astype(np.float32), 16000, frames, 10)
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        mask[:32, 8 * number : 8 * number + 24] = 255
        write_image(folder / f"mask{number}.png", mask)
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="session")
def manifest(folder: Path) -> Callable[..., Path]:
    """Writes manifests of these clips."""

    def write(name: str, *, masks: bool = False, broken: bool = False, labels: tuple[str, ...] = LABELS) -> Path:
        lines = [
            {
                "path": f"clip{number}.mp4",
                "labels": labels[number % 2],
                **({"mask": f"mask{number}.png"} if masks else {}),
            }
            for number in range(CLIPS)
        ]
        if broken:
            lines.insert(2, {"path": "broken.mp4", "labels": labels[0]})
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def models(quick_builds: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finetuned and a pretraining checkpoint, and an engine of the first."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    paths = {name: folder / f"{name}.safetensors" for name in ("finetuned", "pretrained")}
    save_checkpoint(KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=LABELS, **SMALL), paths["finetuned"])
    save_checkpoint(KDCMAE.from_preset("tiny", norm_pix=False, **SMALL), paths["pretrained"])
    paths["engine"] = folder / "engine"
    arguments = ["--target", "onnx", "--checkpoint", paths["finetuned"], "--output", paths["engine"]]
    result = CliRunner().invoke(compile_main, [*map(str, arguments), "--batch", "1:2:4"])
    assert result.exit_code == 0, result.output
    return paths
