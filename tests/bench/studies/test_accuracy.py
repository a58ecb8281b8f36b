from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAEClassifier
from kdcmae.bench.cli import main
from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.studies.accuracy import SECTION, USES, measure_accuracy
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main as compile_main
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.errors import DataError
from kdcmae.media.frame_numbers import MIDDLE_FRAME

pytestmark = pytest.mark.usefixtures("quick_builds")

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
    readme.write_text(f"# before\n\n{SECTION.begin}\n\n{SECTION.end}\n\nafter\n")
    arguments = [str(engine), "--checkpoint", str(checkpoint), "--clips", "24", "--output", str(output)]
    result = CliRunner().invoke(main, ["accuracy", *arguments, "--readme", str(readme)])
    assert result.exit_code == 0, result.output
    report = json.loads(output.read_text())
    references = {row["use"]: row for row in report["rows"] if row["is_reference"]}
    assert list(references) == [use.name for use in USES]
    rows = [row for row in report["rows"] if not row["is_reference"]]
    # Built for both modalities: it cannot do without one, but takes one that is silent or black.
    assert [row["use"] for row in rows] == ["sound and picture", "silence and picture", "sound and black picture"]
    for row in rows:
        assert references[row["use"]]["accuracy"] == row["accuracy"]
        assert (row["drop"], row["agreement"]) == (0.0, 1.0)
        # None of 24 answers was lost, which does not exclude that one in nine would be.
        assert row["drop_interval"] == [0.0, pytest.approx(1 - 0.05 ** (1 / 24))]
    whole, silent, black = (f"{100 * row['accuracy']:.2f} (100.00)" for row in rows)
    text = readme.read_text()
    assert text.startswith("# before")
    assert text.endswith("after\n")
    assert f"| onnx, fp32 | fp32 | {whole} | - | - | {silent} | {black} | 0.00 (0.00 to 11.73) |" in text


def test_an_engine_of_raw_inputs_prepares_the_clips_itself(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    arguments = ["--target", "onnx", "--inputs", "raw", "--checkpoint", str(checkpoint), "--output", str(folder)]
    assert CliRunner().invoke(compile_main, arguments).exit_code == 0
    rows = [row for row in measure_accuracy(checkpoint, [folder], clips=12)["rows"] if not row["is_reference"]]
    assert {row["name"] for row in rows} == {"onnx, fp32, raw inputs"}
    assert [row["agreement"] for row in rows] == [1, 1, 1]


def test_variants_are_measured_on_what_they_take(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "variants"
    arguments = ["--target", "onnx", "--checkpoint", str(checkpoint), "--output", str(folder)]
    arguments += ["--modalities", "audiovisual,audio,video"]
    assert CliRunner().invoke(compile_main, arguments).exit_code == 0
    rows = measure_accuracy(checkpoint, [folder, f"{folder}@audio"], clips=24)["rows"]
    whole, variant = rows[len(USES) : 2 * len(USES)], rows[2 * len(USES) :]
    assert [row["use"] for row in whole] == [use.name for use in USES]
    assert [row["use"] for row in variant] == ["sound alone"]
    assert all(row["agreement"] == 1 for row in rows)


def test_a_use_withholds_or_silences_what_it_says() -> None:
    clip = AVSynth("test", clips=1)
    raw = clip.read(clip.records[0], "audiovisual", [MIDDLE_FRAME])
    for use, has_sound, has_picture in zip(USES, (1, 1, None, 0, 1), (1, None, 1, 1, 0), strict=True):
        waveform, frames = use.of(raw)
        assert (None if waveform is None else int(waveform.any())) == has_sound
        assert (None if frames is None else int(frames[0].any())) == has_picture
    assert raw.waveform.any()


def test_models_with_other_classes_are_not_compared(checkpoint: Path, tmp_path: Path) -> None:
    swapped = (LABELS.names[1], LABELS.names[0], *LABELS.names[2:])
    other = write_checkpoint(tmp_path / "other.safetensors", swapped)
    with pytest.raises(DataError, match="other classes"):
        measure_accuracy(checkpoint, [other], clips=12)
    stranger = write_checkpoint(tmp_path / "stranger.safetensors", ("speech", "music"))
    with pytest.raises(DataError, match="is not a class of the model"):
        measure_accuracy(stranger, [], clips=12)


def test_the_table_has_a_line_per_model_and_a_column_per_use() -> None:
    reference = {"name": "a (PyTorch)", "executes": "fp32", "is_reference": True, "drop": 0.0, "drop_interval": (0, 0)}
    engine = {"name": "b", "executes": "bf16", "is_reference": False, "drop": 0.01, "drop_interval": (-0.01, 0.03)}
    rows = [
        {**reference, "use": "both", "accuracy": 0.9, "agreement": 1.0},
        {**reference, "use": "sound alone", "accuracy": 0.5, "agreement": 1.0},
        {**engine, "use": "both", "accuracy": 0.89, "agreement": 0.97},
        {**engine, "name": "c", "use": "sound alone", "accuracy": 0.4, "agreement": 0.8},
    ]
    report = {"rows": rows, "clips": 100, "avsynth_version": 2, "environment": {"host": {"cpu": "a processor"}}}
    lines = render_markdown(SECTION.render(report)).splitlines()
    assert lines[0] == "| model | executes | both | sound alone | points lost, both (95 %) |"
    assert lines[2] == "| a (PyTorch) | fp32 | 90.00 | 50.00 | reference |"
    assert lines[3] == "| b | bf16 | 89.00 (97.00) | - | 1.00 (-1.00 to 3.00) |"
    assert lines[4] == "| c | bf16 | - | 40.00 (80.00) | - |"
