"""The model that ships with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from kdcmae import assets, load_classifier
from kdcmae.assets import checkpoint, default_checkpoint
from kdcmae.compile.cli import main
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.dataset import DatasetSettings
from kdcmae.errors import CheckpointError
from kdcmae.evaluation.classification import score_clips, summarize
from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings
from kdcmae.predictors import CheckpointPredictor
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.openvino import native_precision

ROOT = Path(__file__).parents[2]


def test_it_is_small_and_stored_in_half_precision() -> None:
    assert sum(path.stat().st_size for path in assets.FOLDER.iterdir() if path.is_file()) < 5e6
    with safe_open(default_checkpoint(), framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118 (not a mapping)
    classifier = load_classifier(default_checkpoint())
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}


def test_it_knows_the_classes_of_avsynth() -> None:
    labels = (assets.FOLDER / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(labels) == LABELS.names == load_classifier(default_checkpoint()).labels


def test_it_is_as_accurate_as_its_card_says() -> None:
    """On other clips than the card's: those of the validation split."""
    card = (assets.FOLDER / "model_card.md").read_text(encoding="utf-8")
    match = re.search(r"\| sound and picture \| ([\d.]+) % \|", card)
    assert match is not None
    claimed = float(match[1]) / 100
    predictor = CheckpointPredictor(load_classifier(default_checkpoint()).eval(), "shipped")
    settings = DatasetSettings(preprocessing=predictor.facts.preprocessing)
    clips = EvaluationClips("avsynth:240", LABELS, settings, LoaderSettings(), split="valid")
    accuracy = summarize(score_clips(predictor, clips), LABELS.names).accuracy
    # Three standard errors of 240 clips.
    assert accuracy > claimed - 3 * max(claimed * (1 - claimed), 0.01) ** 0.5 / 240**0.5


def test_a_package_without_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ships no classifier"):
        checkpoint("classifier", tmp_path)


def test_wheels_contain_it() -> None:
    tomllib = pytest.importorskip("tomllib")
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["kdcmae.assets"]
    packed = {path.name for pattern in patterns for path in assets.FOLDER.glob(pattern)}
    assert packed == {path.name for path in assets.FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}


def test_it_compiles_in_half_precision_for_many_samples(tmp_path: Path) -> None:
    """Noise at 32 samples is where bfloat16 alone leaves the gate; clips are what the engine is proved on."""
    pytest.importorskip("openvino")
    precision = native_precision("bf16", this_cpu())
    options = ["--target", "openvino", "--precision", precision, "--batch", "1:8:32", "--no-cache"]
    result = CliRunner().invoke(main, [*options, "--output", str(tmp_path / "engine")])
    assert result.exit_code == 0, result.stderr
