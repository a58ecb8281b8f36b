"""``make assets`` after its trainings, which are of a very small model here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from click.testing import CliRunner
from safetensors import safe_open

from kdcmae import KDCMAE, load_classifier
from kdcmae.bench.studies.assets import main
from kdcmae.checkpoints import init_classifier, save_checkpoint
from kdcmae.data.avsynth.classes import LABELS

SIZES = {"audio_length": 208, "image_size": 112, "embed_dim": 32, "num_heads": 1, "specific_depth": 1}
SETTINGS = {"batch_size": 4, "learning_rate": 0.001, "precision": "fp32", "seed": 3}


def _write_runs(folder: Path) -> None:
    torch.manual_seed(0)
    pretrained = KDCMAE.from_preset("tiny", **SIZES, decoder_embed_dim=16, decoder_num_heads=1, decoder_depth=1)
    classifier, _ = init_classifier(pretrained, num_classes=len(LABELS), labels=LABELS.names)
    for name, model in (("pretrained", pretrained), ("finetuned", classifier)):
        run = folder / name
        run.mkdir()
        save_checkpoint(model, run / "model.safetensors")
        (run / "settings.json").write_text(json.dumps(SETTINGS))
        document = {"weights": str(run / "model.safetensors"), "epochs": 2, "steps": 40, "seconds": 12.3}
        (folder / f"{name}.json").write_text(json.dumps(document))


def test_what_ships_is_rounded_measured_and_described(tmp_path: Path) -> None:
    _write_runs(tmp_path)
    output = tmp_path / "assets"
    output.mkdir()
    result = CliRunner().invoke(main, [str(tmp_path), "--clips", "24", "--output", str(output)])
    assert result.exit_code == 0, result.output
    with safe_open(output / "classifier.safetensors", framework="pt") as file:
        assert file.get_slice("norm.weight").get_dtype() == "F16"
    rounded = load_classifier(output / "classifier.safetensors")
    exact = load_classifier(tmp_path / "finetuned" / "model.safetensors")
    assert dataclasses.asdict(rounded.config) == dataclasses.asdict(exact.config)
    for ours, theirs in zip(rounded.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert tuple((output / "labels.txt").read_text().splitlines()) == LABELS.names
    card = (output / "model_card.md").read_text()
    assert "| pretraining | 2 | 40 | 4 | 0.001 | fp32 | 3 | 12 |" in card
    assert "| chance | 4.2 % | 20.8 % | 41.7 % |" in card
    for row in ("sound and picture", "sound alone", "picture alone", "best box in the middle"):
        assert f"| {row} | " in card
    assert "| the same with another clip's sound | " in card
    assert "Every patch is encoded alone" in card
    assert "{" not in card
