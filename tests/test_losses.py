from __future__ import annotations

import pytest
import torch

from kdcmae.errors import ConfigError
from kdcmae.losses import contrastive_accuracy, contrastive_loss, distillation_loss, reconstruction_loss


def test_reconstruction_counts_removed_patches_only():
    target = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    prediction = target.clone()
    prediction[0, 0] += 100.0
    prediction[0, 1] += 2.0
    assert reconstruction_loss(prediction, target, mask, norm_pix=False).item() == pytest.approx(4.0, rel=1e-5)


def test_contrastive_prefers_matching_pairs():
    features = torch.eye(4)
    matched = contrastive_loss(features, features)
    assert matched < contrastive_loss(features, features.roll(1, dims=0))
    assert contrastive_accuracy(features, features) == 1.0
    assert contrastive_accuracy(features, features.roll(1, dims=0), bidirectional=True) == 0.0


def test_distillation_of_three_views_is_the_mean_of_pairs():
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(3, 5, 8, generator=generator) for _ in range(3)]
    pairs = [distillation_loss([latents[i], latents[j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(distillation_loss(latents), torch.stack(pairs).mean(dim=0))
    assert distillation_loss([latents[0], latents[0]]).abs().max() < 1e-6


def test_distillation_gradient_reaches_both_sides():
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(2, 5, 8, generator=generator, requires_grad=True) for _ in range(2)]
    distillation_loss(latents).sum().backward()
    for latent in latents:
        assert latent.grad is not None
        assert latent.grad.isfinite().all()
        assert latent.grad.abs().max() > 0


def test_distillation_needs_two_views():
    with pytest.raises(ConfigError, match="at least two"):
        distillation_loss([torch.zeros(1, 2, 3)])
