"""The statistics that normalise a model's inputs: in the configuration, in checkpoints, and assumed where unstated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcmae import KDCMAE, KDCMAEClassifier, load_classifier, load_pretrained
from kdcmae.checkpoints import init_classifier, save_checkpoint
from kdcmae.compile.models import classifier_model, feature_model
from kdcmae.keep import TokenKeep, keep_tokens
from kdcmae.predictors import CheckpointPredictor
from kdcmae.runtime.preprocessing import Preprocessing

SIZES: dict[str, Any] = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1}
ODD: dict[str, Any] = {
    "mono": "left",
    "fbank_mean": -4.5,
    "fbank_std": 3.25,
    "image_mean": (0.5, 0.25, 0.125),
    "image_std": (0.5, 1.0, 0.75),
}
FACTS = {"name": "odd", "source": "a test", "random_weights": False}


@pytest.fixture(scope="module")
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, **SIZES, **ODD).eval()


@pytest.fixture(scope="module")
def pretrained() -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", **SIZES, **DECODER, **ODD).eval()


@pytest.fixture(scope="module")
def foreign(classifier: KDCMAEClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "foreign.pth"
    torch.save(classifier.state_dict(), path)
    return path


def statistics(facts: Preprocessing) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in ODD}


def test_checkpoints_hold_them(classifier, pretrained, tmp_path, caplog):
    save_checkpoint(classifier, tmp_path / "classifier.safetensors")
    save_checkpoint(pretrained, tmp_path / "pretrained.safetensors")
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    assert loaded.config == classifier.config
    assert statistics(loaded.config.preprocessing) == ODD
    again = load_pretrained(tmp_path / "pretrained.safetensors")
    assert statistics(again.config.preprocessing) == ODD
    finetuned, _ = init_classifier(again, num_classes=3)
    assert statistics(finetuned.config.preprocessing) == ODD
    assert not caplog.records
    assert loaded.assumed == ""


def test_everything_that_prepares_clips_reads_them(classifier, pretrained):
    wanted = Preprocessing(audio_frames=64, image_size=32, **ODD)
    assert classifier.config.preprocessing == wanted
    assert CheckpointPredictor(classifier, "odd").facts.preprocessing == wanted
    assert classifier_model(classifier, **FACTS).preprocessing == wanted
    assert feature_model(pretrained, **FACTS).preprocessing == wanted


def test_files_of_earlier_versions_were_trained_with_the_published_ones(tmp_path, caplog):
    published = KDCMAEClassifier.from_preset("tiny", num_classes=3, **SIZES)
    path = tmp_path / "early.safetensors"
    save_checkpoint(published, path)
    config = {name: value for name, value in vars(published.config).items() if name not in ODD}
    tensors = load_file(path)
    save_file(tensors, path, metadata={"kdcmae_kind": "classifier", "kdcmae_config": json.dumps(config)})
    assert load_classifier(path).config == published.config
    assert not caplog.records
    assert load_classifier(path, fbank_std=2.0).config.fbank_std == 2.0
    assert "early.safetensors was trained with fbank_std=4.4849; computing with fbank_std=2.0" in caplog.text


def test_foreign_files_say_nothing(foreign, caplog):
    loaded = load_classifier(foreign)
    assert loaded.config.preprocessing == Preprocessing(audio_frames=64, image_size=32, mono="left")
    sound = "fbank_mean=-5.081, fbank_std=4.4849, mono=left (published for AudioSet and VGGSound)"
    picture = "image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225) (published for ImageNet)"
    assert loaded.assumed == f"{sound}, {picture}"
    assert caplog.text.count("foreign.pth does not say how its inputs were made; assuming") == 1
    assert load_classifier(foreign, modality="audio").assumed == sound
    assert load_classifier(foreign, modality="video").assumed == picture
    given = load_classifier(foreign, fbank_mean=-4.5, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    assert given.assumed == "fbank_std=4.4849, mono=left (published for AudioSet and VGGSound)"
    caplog.clear()
    assert statistics(load_classifier(foreign, **ODD).config.preprocessing) == ODD
    assert not caplog.records


@pytest.mark.parametrize("by", ["energy", "merge"])
def test_what_was_assumed_reaches_the_manifest(foreign, by):
    loaded = keep_tokens(load_classifier(foreign), TokenKeep(ratio=0.5, by=by))
    assert classifier_model(loaded, **FACTS).facts["assumed"] == load_classifier(foreign).assumed
    assert "assumed" not in classifier_model(load_classifier(foreign, **ODD), **FACTS).facts
