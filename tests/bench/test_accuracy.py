from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAEClassifier
from kdcmae.bench.accuracy import BEGIN, END, drop_interval, measure_accuracy, render
from kdcmae.bench.cli import main
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main as compile_main
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.errors import DataError

SIZES = {"audio_length": 208, "image_size": 112, "embed_dim": 32, "num_heads": 1, "specific_depth": 1}


def write_checkpoint(path: Path, labels: tuple[str, ...], *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(KDCMAEClassifier.from_preset("tiny", num_classes=len(labels), labels=labels, **SIZES), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model.safetensors", LABELS.names)


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "onnx"
    arguments = ["--target", "onnx", "--checkpoint", str(checkpoint), "--output", str(folder)]
    result = CliRunner().invoke(compile_main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def test_an_engine_loses_nothing_of_its_checkpoint(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    readme, output = tmp_path / "README.md", tmp_path / "accuracy.json"
    readme.write_text(f"# before\n\n{BEGIN}\n\n{END}\n\nafter\n")
    arguments = [str(engine), "--checkpoint", str(checkpoint), "--clips", "24", "--output", str(output)]
    result = CliRunner().invoke(main, ["accuracy", *arguments, "--readme", str(readme)])
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text())
    reference, row = report["rows"]
    assert reference["accuracy"] == row["accuracy"]
    assert (row["drop"], row["drop_interval"], row["changed"]) == (0.0, [0.0, 0.0], 0)
    text = readme.read_text()
    assert text.startswith("# before")
    assert text.endswith("after\n")
    assert f"| onnx, fp32 | fp32 | {100 * row['accuracy']:.2f} % | 0.00 (0.00 to 0.00) | 0 |" in text


def test_an_engine_of_raw_inputs_prepares_the_clips_itself(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    arguments = ["--target", "onnx", "--inputs", "raw", "--checkpoint", str(checkpoint), "--output", str(folder)]
    assert CliRunner().invoke(compile_main, arguments).exit_code == 0
    _, row = measure_accuracy(checkpoint, [folder], clips=12)["rows"]
    assert row["name"] == "onnx, fp32, raw inputs"
    assert row["changed"] == 0


def test_models_with_other_classes_are_not_compared(checkpoint: Path, tmp_path: Path) -> None:
    swapped = (LABELS.names[1], LABELS.names[0], *LABELS.names[2:])
    other = write_checkpoint(tmp_path / "other.safetensors", swapped)
    with pytest.raises(DataError, match="other classes"):
        measure_accuracy(checkpoint, [other], clips=12)
    stranger = write_checkpoint(tmp_path / "stranger.safetensors", ("speech", "music"))
    with pytest.raises(DataError, match="does not know AVSynth's classes"):
        measure_accuracy(stranger, [], clips=12)


def test_the_interval_of_the_drop_keeps_the_pairs() -> None:
    rng = np.random.default_rng(0)
    lost = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.93, 0.05], size=600)
    low, high = drop_interval(lost)
    assert low < lost.mean() < high
    # The bootstrap's interval is that of the normal distribution, to the resolution of a clip.
    half = 1.96 * lost.std() / np.sqrt(len(lost))
    np.testing.assert_allclose([low, high], [lost.mean() - half, lost.mean() + half], atol=2 / 600)
    assert drop_interval(np.zeros(600)) == (0.0, 0.0)


def test_the_table_says_what_each_row_lost() -> None:
    reference = {"name": "a (PyTorch)", "executes": "fp32", "accuracy": 0.9, "drop": 0.0}
    engine = {"name": "b", "executes": "bf16", "accuracy": 0.89, "drop": 0.01}
    rows = [
        {**reference, "drop_interval": (0, 0), "changed": 0},
        {**engine, "drop_interval": (-0.01, 0.03), "changed": 3},
    ]
    report = {"rows": rows, "clips": 100, "avsynth_version": 2, "environment": {"host": {"cpu": "a processor"}}}
    lines = render(report).splitlines()
    assert lines[2] == "| a (PyTorch) | fp32 | 90.00 % | reference |  |"
    assert lines[3] == "| b | bf16 | 89.00 % | 1.00 (-1.00 to 3.00) | 3 |"
