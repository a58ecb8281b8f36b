"""The three losses of KDC-MAE (paper section 3) as plain functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcmae.errors import ConfigError

__all__ = ["contrastive_accuracy", "contrastive_loss", "distillation_loss", "reconstruction_loss"]


def reconstruction_loss(prediction: Tensor, target: Tensor, mask: Tensor, *, norm_pix: bool) -> Tensor:
    """Mean squared error over the removed patches.

    Args:
        prediction: (B, L, P) decoder output.
        target: (B, L, P) pixels of each patch.
        mask: (B, L), 1 = removed.
        norm_pix: normalise each target patch to zero mean and unit (unbiased) variance first.

    Returns:
        A scalar.
    """
    if norm_pix:
        mean = target.mean(dim=-1, keepdim=True)
        target = (target - mean) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    per_patch = (prediction - target).square().mean(dim=-1)
    return (per_patch * mask).sum() / mask.sum()


def contrastive_loss(audio: Tensor, video: Tensor, *, temperature: float = 0.05, bidirectional: bool = False) -> Tensor:
    """InfoNCE between pooled audio and video latents; row i of one belongs to row i of the other.

    Args:
        audio, video: (B, D).
        temperature: divides the cosine similarities.
        bidirectional: average with the audio-to-video direction; the published default is video-to-audio only.

    Returns:
        A scalar.
    """
    logits = _similarity(audio, video) / temperature
    target = torch.arange(len(logits), device=logits.device)
    loss = F.cross_entropy(logits, target)
    if bidirectional:
        loss = (loss + F.cross_entropy(logits.T, target)) / 2
    return loss


def contrastive_accuracy(audio: Tensor, video: Tensor, *, bidirectional: bool = False) -> Tensor:
    """Share of videos whose nearest audio is their own; the arguments of :func:`contrastive_loss`."""
    logits = _similarity(audio, video)
    target = torch.arange(len(logits), device=logits.device)
    accuracy = (logits.argmax(dim=1) == target).float().mean()
    if bidirectional:
        accuracy = (accuracy + (logits.argmax(dim=0) == target).float().mean()) / 2
    return accuracy


def distillation_loss(latents: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence between the views, averaged over pairs of views, unweighted.

    Args:
        latents: per view, the (B, N, D) joint latent; N may differ between views. At least two.

    Returns:
        (B,), one divergence per sample, in nats; gradients flow through both sides.

    Source: the published code. A latent becomes a distribution over channels by the token mean, shifted up by
    the absolute value of its minimum over the batch and divided by the channel sum.
    """
    if len(latents) < 2:
        raise ConfigError(f"distillation compares views, but got {len(latents)}; give at least two latents")
    distributions = [_channel_distribution(latent) for latent in latents]
    pairs = [_jensen_shannon(p, q) for p, q in combinations(distributions, 2)]
    return torch.stack(pairs).mean(dim=0)


def _similarity(audio: Tensor, video: Tensor) -> Tensor:
    """(B, B) cosines, rows videos and columns audios."""
    return F.normalize(video, dim=-1) @ F.normalize(audio, dim=-1).T


def _channel_distribution(latent: Tensor) -> Tensor:
    mean = latent.mean(dim=1)
    shifted = mean + mean.min().abs()
    return shifted / shifted.sum(dim=1, keepdim=True)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (_kullback_leibler(p, middle) + _kullback_leibler(q, middle)) / 2


def _kullback_leibler(p: Tensor, q: Tensor) -> Tensor:
    eps = 1e-12
    return (p * ((p + eps) / (q + eps)).log()).sum(dim=1)
