"""Statistics of a model's inputs, from a checkpoint or the options to the scores that an app gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from kdcmae import KDCMAEClassifier, load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli.model import load_model
from kdcmae.compile.expectation import compare_with_trained
from kdcmae.compile.models import classifier_model
from kdcmae.compile.settings import Expectation
from kdcmae.config import replace
from kdcmae.data.avsynth.files import generate
from kdcmae.errors import GateError
from kdcmae.predictors import CheckpointPredictor, batched_logits
from kdcmae.runtime import load_engine
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.scores import scores

SMALLEST: dict[str, Any] = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
ODD: dict[str, Any] = {
    "mono": "left",
    "fbank_mean": -4.5,
    "fbank_std": 0.75,
    "image_mean": (0.5, 0.25, 0.125),
    "image_std": (0.125, 0.25, 0.5),
}
PUBLISHED = {name: getattr(Preprocessing(), name) for name in ODD}
ASSUMED = "does not say how its inputs were made"


@pytest.fixture(scope="module")
def odd() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, **SMALLEST, **ODD).eval()


@pytest.fixture(scope="module")
def foreign(odd: KDCMAEClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "foreign.pth"
    torch.save(odd.state_dict(), path)
    return path


def heard(classifier: KDCMAEClassifier, sound: Any, frame: Any) -> Any:
    """The scores of the PyTorch model."""
    predictor = CheckpointPredictor(classifier, "odd")
    return scores(batched_logits(predictor, predictor.prepare(sound, [frame])), "softmax")[0]


def compiled(run: Callable[..., Result], checkpoint: Path, folder: Path, *arguments: object) -> str:
    """Build an engine, and give what was written to stderr."""
    result = run("--target", "onnx", "--precision", "fp32", "--checkpoint", checkpoint, "--output", folder, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stderr


def require_equal_scores(folder: Path, classifier: KDCMAEClassifier) -> None:
    """An engine's own preprocessing gives what the PyTorch model's gives, and the published statistics do not."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.5, 0.5, (2, 9_000)).astype(np.float32)
    frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with load_engine(folder) as engine:
        found = {prediction.label: prediction.score for prediction in engine.classify(sound, 16_000, frame)}
    wanted = heard(classifier, sound, frame)
    np.testing.assert_allclose([found[label] for label in classifier.labels], wanted, atol=1e-4)
    published = KDCMAEClassifier(replace(classifier.config, **PUBLISHED))
    published.load_state_dict(classifier.state_dict())
    assert np.abs(wanted - heard(published.eval(), sound, frame)).max() > 1e-2


def test_an_engine_of_prepared_inputs_answers_as_its_checkpoint(odd, run, tmp_path):
    save_checkpoint(odd, tmp_path / "model.safetensors")
    said = compiled(run, tmp_path / "model.safetensors", tmp_path / "engine", "--no-cache")
    assert ASSUMED not in said
    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    assert {name: manifest["preprocessing"][name] for name in ODD} == json.loads(json.dumps(ODD))
    assert "assumed" not in manifest["model"]
    require_equal_scores(tmp_path / "engine", odd)


def test_an_engine_of_raw_inputs_from_a_foreign_checkpoint(odd, foreign, run, tmp_path):
    options = ("--inputs", "raw", "--fbank-mean", "-4.5", "--fbank-std", "0.75", "--image-mean", "0.5,0.25,0.125",
               "--mono", "left")  # fmt: skip
    folder = tmp_path / "engine"
    assert compiled(run, foreign, folder, *options).count(ASSUMED) == 1
    assumed = "image_std=(0.229, 0.224, 0.225) (published for ImageNet)"
    assert json.loads((folder / "manifest.json").read_text())["model"]["assumed"] == assumed
    assert f"assumed: {assumed}" in (folder / "report.html").read_text()
    assert assumed in run("inspect", folder).stdout
    given = {**ODD, "image_std": PUBLISHED["image_std"]}
    require_equal_scores(folder, load_classifier(foreign, **given))
    cached = compiled(run, foreign, folder, *options)
    assert "taken from the cache" in cached
    assert cached.count(ASSUMED) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fbank-std", "0"), "'0' must be a positive number, such as 4.4849 (published)."),
        (("--fbank-std", "-4.5"), "'-4.5' must be a positive number"),
        (("--fbank-mean", "nan"), "'nan' must be a number, such as -5.081"),
        (("--fbank-mean", "1,2"), "'1,2' must be a number"),
        (("--image-mean", "0.5"), "'0.5' must be three numbers, such as 0.485,0.456,0.406"),
        (("--image-std", "0.2,0.2,0"), "'0.2,0.2,0' must be three positive numbers"),
    ],
)
def test_statistics_out_of_range_are_refused_before_anything_is_loaded(arguments, message, run, tmp_path):
    result = run("--target", "onnx", "--checkpoint", tmp_path / "absent.pth", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expectation:
    """What the shipped classifier answers to three clips with another trainer's statistics."""
    from kdcmae.data.clip import read_clip

    folder = tmp_path_factory.mktemp("avsynth")
    generate(folder, split="test", clips=3)
    predictor = CheckpointPredictor(
        load_classifier(default_checkpoint(), fbank_mean=-4.2677, fbank_std=9.138), "theirs"
    )
    lines = []
    for path in sorted((folder / "test").glob("*.mp4")):
        clip = read_clip(path)
        logits = predictor.infer(predictor.prepare(clip.waveform, [clip.frames[5]]))["logits"]
        lines.append(json.dumps({"clip": str(path), "logits": logits[0].tolist()}))
    (folder / "theirs.jsonl").write_text("\n".join(lines))
    return Expectation(path=folder / "theirs.jsonl")


def test_the_users_outputs_show_other_statistics(expected):
    theirs = load_classifier(default_checkpoint(), fbank_mean=-4.2677, fbank_std=9.138)
    facts = {"name": "shipped", "source": "the package", "random_weights": False}
    assert compare_with_trained(classifier_model(theirs, **facts), expected).status == "passed"
    with pytest.raises(GateError, match=r"Look at .*--fbank-mean, --fbank-std"):
        compare_with_trained(classifier_model(load_classifier(default_checkpoint()), **facts), expected)


def test_zero_is_a_mean(foreign):
    options = {"task": "classify", "preset": None, "random_weights": False, "labels": None, "inputs": "tensor"}
    model = load_model(checkpoint=foreign, **options, keep=1.0, keep_by="energy", fbank_mean=0.0, multi_label=False)  # type: ignore[arg-type]
    assert model.preprocessing.fbank_mean == 0.0
