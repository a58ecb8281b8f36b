"""Statistics of the inputs, from ``kdcmae data stats`` through training to the checkpoint and back."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdcmae import load_classifier, load_pretrained
from kdcmae.cli import main
from kdcmae.data.avsynth.files import generate
from kdcmae.data.manifest import read_manifest

SIZES: dict[str, Any] = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 208, "image_size": 32}
DECODER: dict[str, Any] = {"decoder_embed_dim": 32, "decoder_num_heads": 1, "decoder_depth": 1}
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "workers": 0, "average_from_epoch": None}
STATISTICS = ("fbank_mean", "fbank_std", "image_mean", "image_std")


def run(*arguments: object, **settings: Any) -> Result:
    words = [str(argument) for argument in arguments]
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with the statistics that were measured on its clips."""
    manifest = generate(tmp_path_factory.mktemp("avsynth"), clips=4, split="train")
    printed = run("data", "stats", manifest, "--audio-frames", 208, "--processes", 1)
    assert "train with --set fbank_mean=" in printed.stdout
    assert not manifest.with_name(f"{manifest.name}.stats.json").exists()
    written = run("data", "stats", manifest, "--audio-frames", 208, "--processes", 1, "--write", "--json")
    assert json.loads(written.stdout)["written"] == f"{manifest}.stats.json"
    return manifest


def test_from_the_data_to_the_finetuned_checkpoint(clips: Path, tmp_path: Path) -> None:
    measured = json.loads(Path(f"{clips}.stats.json").read_text())
    quick = {name: value for name, value in QUICK.items() if name != "average_from_epoch"}
    recipe = ("--recipe", "avsynth-pretrain", "--device", "cpu")
    result = run("pretrain", "--data", clips, "--output", tmp_path / "a", *recipe, **SIZES, **DECODER, **quick)
    assert result.exit_code == 0, result.stderr
    pretrained = load_pretrained(tmp_path / "a" / "model.safetensors").config
    assert (pretrained.fbank_mean, pretrained.fbank_std) == (measured["fbank_mean"], measured["fbank_std"])
    assert f"inputs normalised with fbank_mean={pretrained.fbank_mean}" in result.stderr

    other = clips.with_name("other.jsonl")
    other.write_text(clips.read_text())
    Path(f"{other}.stats.json").write_text(json.dumps({"fbank_mean": -1.0, "fbank_std": 2.0, "audio_frames": 64}))
    finetune = ("finetune", "--data", other, "--checkpoint", tmp_path / "a" / "model.safetensors", "--recipe",
                "avsynth-finetune", "--device", "cpu")  # fmt: skip
    result = run(*finetune, "--output", tmp_path / "b", **QUICK)
    assert result.exit_code == 0, result.stderr
    finetuned = load_classifier(tmp_path / "b" / "model.safetensors").config
    assert [getattr(finetuned, name) for name in STATISTICS] == [getattr(pretrained, name) for name in STATISTICS]
    assert result.stderr.count("as the checkpoint has: to use the others, add --set fbank_mean=-1.0") == 1

    told = run(*finetune, "--output", tmp_path / "c", **QUICK, fbank_mean=-1.0, image_std="0.5,0.25,0.125")
    assert told.exit_code == 0, told.stderr
    finetuned = load_classifier(tmp_path / "c" / "model.safetensors").config
    assert (finetuned.fbank_mean, finetuned.fbank_std) == (-1.0, pretrained.fbank_std)
    assert finetuned.image_std == (0.5, 0.25, 0.125)
    assert "computing with fbank_mean=-1.0" in told.stderr


def test_a_single_shard_is_trained_with_what_was_measured_on_it(clips: Path, tmp_path: Path) -> None:
    shard = tmp_path / "clips.tar"
    with tarfile.open(shard, "w") as file:
        for record in read_manifest(clips):
            (tmp_path / "labels.json").write_text(json.dumps({"labels": record.labels}))
            file.add(tmp_path / "labels.json", f"{record.id}.json")
            file.add(str(record.video), f"{record.id}.mp4")
    written = run("data", "stats", shard, "--audio-frames", 208, "--processes", 1, "--write", "--json")
    measured = json.loads(written.stdout)
    assert measured["written"] == f"{shard}.stats.json"
    recipe = ("--recipe", "avsynth-finetune", "--device", "cpu", "--output", tmp_path / "run")
    result = run("finetune", "--data", shard, *recipe, **SIZES, **QUICK)
    assert result.exit_code == 0, result.stderr
    trained = load_classifier(tmp_path / "run" / "model.safetensors")
    assert (trained.config.fbank_mean, trained.config.fbank_std) == (measured["mean"], measured["std"])
    assert trained.config.num_classes == len({label for record in read_manifest(clips) for label in record.labels})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fbank_std": 0}, "fbank_std=0.0 is not supported; it must be a positive number"),
        ({"image_mean": "1,2"}, "image_mean=(1.0, 2.0) is not supported; it must be three numbers"),
        ({"audio_length": 64}, "was measured over 208 frames and the model takes 64"),
    ],
)
def test_statistics_that_no_model_can_have(settings: dict[str, Any], message: str, clips: Path, tmp_path: Path) -> None:
    given = {**SIZES, **QUICK, **settings}
    recipe = ("--recipe", "avsynth-finetune", "--device", "cpu", "--output", tmp_path / "run")
    result = run("finetune", "--data", clips, *recipe, **given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_settings_are_refused_before_pytorch_is_loaded(tmp_path: Path) -> None:
    words = ["finetune", "--data", "avsynth", "--output", str(tmp_path / "run"), "--set", "fbank_std=0"]
    code = (
        f"import sys\nfrom kdcmae.cli import main\ntry:\n    main({words})\nexcept SystemExit as end:\n"
        "    sys.exit(9 if 'torch' in sys.modules else end.code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "fbank_std=0.0 is not supported; it must be a positive number" in ended.stderr
