from __future__ import annotations

import pytest

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.config import ClassifierConfig, EncoderConfig, PretrainingConfig, from_mapping, preset, replace
from kdcmae.errors import ConfigError


def test_base_sizes_are_the_published_ones():
    import torch

    with torch.device("meta"):
        model = KDCMAE(preset(PretrainingConfig, "base"))
        classifier = KDCMAEClassifier(preset(ClassifierConfig, "base", num_classes=527))
    assert len(model.state_dict()) == 647
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 191.036
    assert len(classifier.state_dict()) == 478
    assert round(sum(p.numel() for p in classifier.parameters()) / 1e6, 3) == 164.907


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_other_presets_build(name):
    model = KDCMAEClassifier.from_preset(name, num_classes=3)
    assert model.labels == ("class_0", "class_1", "class_2")


def test_unknown_names_point_at_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'mask_ratio'"):
        from_mapping(PretrainingConfig, {"mask_ration": 0.5})
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        preset(EncoderConfig, "tny")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PretrainingConfig, {"num_heads": 5}, "num_heads=5"),
        (PretrainingConfig, {"views": 5}, "5 complementary views"),
        (PretrainingConfig, {"audio_mask": "time"}, "complementary=False"),
        (PretrainingConfig, {"distillation": "mse"}, "distillation='mse' must be one of js, kl, none"),
        (PretrainingConfig, {"distilled_latents": ("smell",)}, "distilled_latents='smell'"),
        (PretrainingConfig, {"distilled_latents": ()}, "distilled_latents is empty"),
        (PretrainingConfig, {"distillation_temperature": 0.0}, "distillation_temperature=0.0"),
        (PretrainingConfig, {"weighting": "dynamic"}, "weighting='dynamic' must be one of fixed, uncertainty"),
        (PretrainingConfig, {"contrastive_weight": -1.0}, "contrastive_weight=-1.0"),
        (
            PretrainingConfig,
            {"reconstruction_weight": 0.0, "contrastive_weight": 0.0, "distillation": "none"},
            "every loss has weight 0",
        ),
        (PretrainingConfig, {"audio_length": 1000}, "multiple of patch_size"),
        (ClassifierConfig, {}, "needs num_classes"),
        (ClassifierConfig, {"num_classes": 3, "labels": ("a",)}, "1 labels for num_classes=3"),
        (ClassifierConfig, {"num_classes": 3, "modality": "smell"}, "modality='smell'"),
        (ClassifierConfig, {"num_classes": "3"}, "wrong type"),
        (EncoderConfig, {"fbank_std": 0.0}, "fbank_std=0.0 is not supported; it must be a positive number"),
        (EncoderConfig, {"fbank_mean": float("nan")}, "fbank_mean=nan"),
        (EncoderConfig, {"image_std": (0.2, 0.2)}, "image_std=.*three positive numbers"),
        (EncoderConfig, {"image_mean": 0.5}, "wrong type"),
    ],
)
def test_bad_values(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(kind, values)


def test_replace_checks_too():
    config = preset(EncoderConfig, "tiny")
    assert replace(config, audio_length=512).audio_tokens == 256
    with pytest.raises(ConfigError):
        replace(config, num_heads=7)


@pytest.mark.parametrize(
    ("modality", "inputs"), [("audiovisual", ("audio", "image")), ("audio", ("audio",)), ("video", ("image",))]
)
def test_a_classifier_says_what_it_takes(modality, inputs):
    assert preset(ClassifierConfig, "tiny", num_classes=2, modality=modality).inputs == inputs
