from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdcmae import KDCMAE
from kdcmae.checkpoints import init_classifier
from kdcmae.errors import DataError
from kdcmae.evaluation.probe import LabelledFeatures, fit_ridge, pooled_features, probe

SMALL = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 2, "specific_depth": 1}


def blobs(clips: int, *, noise: float, seed: int = 0, width: int = 12, classes: int = 3) -> LabelledFeatures:
    """Clouds around one centre per class, far from zero and of uneven scales."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = rng.integers(classes, size=clips)
    scales = np.geomspace(0.01, 100, width)
    features = (centres[labels] + noise * rng.standard_normal((clips, width)) + 5) * scales
    return LabelledFeatures(features, np.eye(classes, dtype=bool)[labels])


def test_separable_classes_are_read_off_and_noise_is_not() -> None:
    labels = ("a", "b", "c")
    result, _ = probe(blobs(90, noise=0.2), blobs(60, noise=0.2, seed=1), labels)
    assert result.train_clips == 90
    assert result.classification.clips == 60
    assert result.classification.accuracy == 1.0
    assert result.classification.mean_average_precision == 1.0
    assert probe(blobs(90, noise=50), blobs(600, noise=50, seed=1), labels)[0].classification.accuracy < 0.5


def test_fitting_twice_gives_the_same() -> None:
    first, second = (fit_ridge(blobs(40, noise=1.0)) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(first.bias, second.bias)


@pytest.mark.parametrize(("clips", "width"), [(40, 12), (9, 30)])
def test_the_weights_solve_the_normal_equations(clips: int, width: int) -> None:
    data = blobs(clips, noise=2.0, width=width)
    fitted = fit_ridge(data)
    x = (data.features - data.features.mean(axis=0)) / data.features.std(axis=0)
    y = data.positives - data.positives.mean(axis=0)
    weight = np.linalg.solve(x.T @ x + clips * fitted.penalty * np.eye(width), x.T @ y)
    expected = x @ weight + data.positives.mean(axis=0)
    np.testing.assert_allclose(fitted.scores(data.features), expected, atol=1e-8)


def test_the_penalty_is_the_best_for_clips_left_out() -> None:
    data = blobs(20, noise=0.8)
    x = (data.features - data.features.mean(axis=0)) / data.features.std(axis=0)
    y = data.positives.astype(float)

    def left_out_error(penalty: float) -> float:
        total = 0.0
        for clip in range(20):
            others = np.arange(20) != clip
            mean, target_mean = x[others].mean(axis=0), y[others].mean(axis=0)
            centred = x[others] - mean
            gram = centred.T @ centred + 20 * penalty * np.eye(x.shape[1])
            weight = np.linalg.solve(gram, centred.T @ (y[others] - target_mean))
            total += np.square(y[clip] - target_mean - (x[clip] - mean) @ weight).mean()
        return total

    best = fit_ridge(data).penalty
    assert left_out_error(best) < min(left_out_error(best / 4), left_out_error(best * 4))


def test_a_feature_that_never_changes_does_no_harm() -> None:
    data = blobs(30, noise=0.2)
    data.features[:, 4] = 7.0
    assert np.isfinite(fit_ridge(data).scores(data.features)).all()


def test_one_clip_is_too_few() -> None:
    with pytest.raises(DataError, match="at least 2 training clips, got 1"):
        fit_ridge(blobs(1, noise=1.0))


@pytest.mark.parametrize("modality", ["audiovisual", "audio", "video"])
def test_the_features_are_those_of_the_frozen_encoder(modality: Any) -> None:
    torch.manual_seed(0)
    pretrained = KDCMAE.from_preset("tiny", **SMALL).eval()
    encoder, _ = init_classifier(pretrained, num_classes=2, modality=modality)
    batches = [
        {"audio": torch.randn(size, 64, 128), "image": torch.randn(size, 3, 32, 32), "target": torch.eye(2)[:size]}
        for size in (2, 1)
    ]
    data = pooled_features(encoder.eval(), batches)
    audio, image = (torch.cat([batch[name] for batch in batches]) for name in ("audio", "image"))
    with torch.no_grad():
        if modality == "audiovisual":
            tokens = torch.cat([pretrained.audio_tokens(audio), pretrained.video_tokens(image)], dim=1)
            expected = pretrained.unified(tokens, "shared").mean(dim=1)
        else:
            expected = pretrained.forward_features(audio, image)[modality == "video"].mean(dim=1)
    np.testing.assert_allclose(data.features, expected, atol=1e-5)
    np.testing.assert_array_equal(data.positives, [[1, 0], [0, 1], [1, 0]])


def test_features_that_cannot_be_used() -> None:
    torch.manual_seed(0)
    encoder, _ = init_classifier(KDCMAE.from_preset("tiny", **SMALL), num_classes=2, modality="audio")
    with pytest.raises(DataError, match="no clips"):
        pooled_features(encoder, [])
    with pytest.raises(DataError, match="not finite"):
        pooled_features(encoder, [{"audio": torch.full((1, 64, 128), torch.nan), "target": torch.ones(1, 2)}])
