from __future__ import annotations

import pytest
import torch

from kdcmae.errors import ConfigError
from kdcmae.losses import (
    FixedWeighting,
    UncertaintyWeighting,
    contrastive_accuracy,
    contrastive_loss,
    distillation_loss,
    reconstruction_loss,
    softmax_distillation_loss,
)


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


@pytest.mark.parametrize("loss", [distillation_loss, softmax_distillation_loss])
def test_distillation_is_computed_in_full_precision(loss):
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(3, 5, 8, generator=generator).half() for _ in range(2)]
    expected = loss([latent.float() for latent in latents])
    assert torch.equal(loss(latents), expected)
    assert expected.isfinite().all()


def test_softmax_distillation_is_the_mean_of_both_directions():
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(3, 5, 8, generator=generator) for _ in range(2)]
    p, q = ((latent.mean(dim=1) / 0.5).softmax(dim=1) for latent in latents)
    expected = ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)) / 2
    torch.testing.assert_close(softmax_distillation_loss(latents, temperature=0.5), expected)
    assert softmax_distillation_loss([latents[0], latents[0]]).abs().max() < 1e-6


def test_softmax_distillation_gives_teachers_no_gradient():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 5, 8, generator=generator, requires_grad=True) for _ in range(2))
    softmax_distillation_loss([first, second]).sum().backward()
    # As students alone: half of cross-entropy against the other view, held fixed.
    for student, teacher in ((first, second), (second, first)):
        alone = student.detach().clone().requires_grad_()
        target = teacher.detach().mean(dim=1).softmax(dim=1)
        (-(target * alone.mean(dim=1).log_softmax(dim=1)).sum() / 2).backward()
        torch.testing.assert_close(student.grad, alone.grad)


def test_fixed_weighting_leaves_terms_without_a_weight_out():
    terms = {"reconstruction": torch.tensor(2.0), "distillation": torch.tensor(torch.nan)}
    assert FixedWeighting({"reconstruction": 0.5})(terms) == 1.0


def test_uncertainty_weighting_starts_from_the_weights_and_finds_the_best_ones():
    weighting = UncertaintyWeighting({"reconstruction": 1.0, "distillation": 10.0})
    assert weighting.weights == pytest.approx({"reconstruction": 1.0, "distillation": 10.0})
    terms = {"reconstruction": torch.tensor(4.0), "distillation": torch.tensor(0.25)}
    optimiser = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        weighting(terms).backward()
        optimiser.step()
    # The minimum of loss / (2 s^2) + log s is at s^2 = loss.
    assert weighting.weights == pytest.approx({"reconstruction": 1 / 8, "distillation": 2.0}, rel=1e-2)
