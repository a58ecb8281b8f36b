from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile import models
from kdcmae.compile.cli import main
from kdcmae.compile.lowering import DTYPES, lower
from kdcmae.compile.parity import TOLERANCE, relative_error
from kdcmae.predictors import CheckpointPredictor, EnginePredictor, batched_outputs
from kdcmae.runtime import load_engine
from kdcmae.runtime.examples import example_inputs

SMALLEST = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
FACTS = {"name": "tiny", "source": "a test", "random_weights": True}


@pytest.fixture(scope="module")
def pretrained() -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", decoder_depth=1, **SMALLEST).eval()


@pytest.fixture(scope="module")
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, **SMALLEST).eval()


@pytest.mark.parametrize("given", [(), ("audio",), ("image",)])
def test_a_classifier_takes_what_it_is_given(given, classifier):
    model = models.classifier_model(classifier, given=given, **FACTS)
    assert tuple(spec.name for spec in model.inputs) == (given or ("audio", "image"))
    inputs = example_inputs(model.inputs, 2)
    with torch.inference_mode():
        expected = classifier(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
    np.testing.assert_array_equal(models.run(model, model.module, inputs)["logits"], expected)


@pytest.mark.parametrize("precision", DTYPES)
def test_lowered_features_are_float32_and_within_tolerance(precision, pretrained):
    model = models.feature_model(pretrained, **FACTS)
    inputs = example_inputs(model.inputs, 2)
    expected = models.run(model, model.module, inputs)
    lowered = models.run(model, lower(model.module, precision), inputs)
    assert list(lowered) == ["audio_features", "video_features"]
    for name, features in lowered.items():
        assert features.dtype == np.float32
        assert relative_error(features, expected[name]) < TOLERANCE[precision]


def test_an_engine_of_features_retrieves_what_the_checkpoint_does(pretrained, tmp_path):
    save_checkpoint(pretrained, tmp_path / "model.safetensors")
    arguments = ["--target", "openvino", "--precision", "fp32", "--task", "features"]
    arguments += ["--checkpoint", str(tmp_path / "model.safetensors")]
    arguments += ["--batch", "1:2:3", "--output", str(tmp_path / "engine"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["labels"] == []
    inputs = example_inputs(models.feature_model(pretrained, **FACTS).inputs, 5)
    expected = CheckpointPredictor(pretrained, "tiny").infer(inputs)
    with load_engine(tmp_path / "engine") as engine:
        assert engine.self_test().passed
        features = batched_outputs(EnginePredictor(engine, "features"), inputs)
    assert set(features) == set(expected)
    assert all(relative_error(features[name], expected[name]) < 1e-4 for name in expected)
