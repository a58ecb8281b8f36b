"""The three losses of KDC-MAE (paper section 3) as functions of tensors, and how they are weighted.

They compute in float32 whatever the latents' type; call them outside autocast. Where processes train together,
a loss is this rank's part: its mean over ranks, and the mean of its gradients, are those of one process with
all ranks' samples. Every rank must call it, with as many samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.collectives import gather_rows, rank
from kdcmae.errors import ConfigError

__all__ = [
    "FixedWeighting",
    "UncertaintyWeighting",
    "contrastive_accuracy",
    "contrastive_loss",
    "distillation_loss",
    "normalised_patches",
    "reconstruction_loss",
    "softmax_distillation_loss",
]


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
        target = normalised_patches(target)
    per_patch = (prediction - target).square().mean(dim=-1)
    return (per_patch * mask).sum() / mask.sum()


def normalised_patches(patches: Tensor) -> Tensor:
    """Each of (B, L, P) patches with zero mean and unit (unbiased) variance."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def contrastive_loss(audio: Tensor, video: Tensor, *, temperature: float = 0.05, bidirectional: bool = False) -> Tensor:
    """InfoNCE between pooled audio and video latents; row i of one belongs to row i of the other.

    Args:
        audio, video: (B, D). The negatives are those of all ranks.
        temperature: divides the cosine similarities.
        bidirectional: average with the audio-to-video direction; the published default is video-to-audio only.

    Returns:
        A scalar.
    """
    loss = F.cross_entropy(_similarity(video, audio) / temperature, _own_columns(video))
    if bidirectional:
        loss = (loss + F.cross_entropy(_similarity(audio, video) / temperature, _own_columns(audio))) / 2
    return loss


@torch.no_grad()
def contrastive_accuracy(audio: Tensor, video: Tensor, *, bidirectional: bool = False) -> Tensor:
    """Share of videos whose nearest audio is their own; the arguments of :func:`contrastive_loss`."""
    accuracy = (_similarity(video, audio).argmax(dim=1) == _own_columns(video)).float().mean()
    if bidirectional:
        backward = (_similarity(audio, video).argmax(dim=1) == _own_columns(audio)).float().mean()
        accuracy = (accuracy + backward) / 2
    return accuracy


def distillation_loss(latents: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon divergence between the views, averaged over pairs of views, unweighted.

    Args:
        latents: per view, the (B, N, D) latent; N may differ between views. At least two.

    Returns:
        (B,), one divergence per sample, in nats; gradients flow through both sides.

    Source: the published code. A latent becomes a distribution over channels by the token mean, shifted up by
    the absolute value of its minimum over the batch and divided by the channel sum. The published minimum is
    over one device's samples, so its loss depends on how many devices share a batch; here it is over all ranks.
    """
    return _mean_over_pairs([_shifted_distribution(latent) for latent in latents], _jensen_shannon)


def softmax_distillation_loss(latents: Sequence[Tensor], *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from one view as fixed teacher to the other, averaged over both roles.

    Args:
        latents: per view, the (B, N, D) latent; N may differ between views. At least two.
        temperature: divides the token means before the softmax over channels.

    Returns:
        (B,), one divergence per sample, in nats, averaged over pairs of views; gradients flow through the
        student's side only.

    Source: the divergence that the paper's text names. No factor temperature**2: the loss has a weight.
    """
    logs = [(latent.float().mean(dim=1) / temperature).log_softmax(dim=1) for latent in latents]
    return _mean_over_pairs(logs, _teach_each_other)


class FixedWeighting(nn.Module):
    """The weighted sum of the losses.

    Args:
        weights: the weight of each loss that counts, by name.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Scalars by name -> a scalar; terms without a weight are ignored."""
        weighted = [weight * terms[name] for name, weight in self.weights.items()]
        return torch.stack(weighted).sum()


class UncertaintyWeighting(nn.Module):
    """Learned weights: the sum over losses of loss / (2 s^2) + log s, with s learned per loss.

    Args:
        weights: the weight 1 / (2 s^2) that each loss starts from, by name.

    Source: Kendall et al., Multi-Task Learning Using Uncertainty (CVPR 2018). The published KDC-MAE code detaches
    the losses from its dynamic weights, so those weights do not learn.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.names = tuple(weights)
        self.log_sigma = nn.Parameter(-(2 * torch.tensor(list(weights.values()))).log() / 2)

    @property
    def weights(self) -> dict[str, float]:
        """The current weight of each loss."""
        return dict(zip(self.names, self._factors().tolist(), strict=True))

    def forward(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Scalars by name -> a scalar; terms without a weight are ignored."""
        losses = torch.stack([terms[name] for name in self.names])
        return (self._factors() * losses + self.log_sigma).sum()

    def _factors(self) -> Tensor:
        return (-2 * self.log_sigma).exp() / 2


def _similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, world size * B) cosines between this rank's queries and every rank's keys."""
    return F.normalize(queries.float(), dim=-1) @ gather_rows(F.normalize(keys.float(), dim=-1)).T


def _own_columns(queries: Tensor) -> Tensor:
    """(B,) the columns of :func:`_similarity` that belong to the queries."""
    return rank() * len(queries) + torch.arange(len(queries), device=queries.device)


def _mean_over_pairs(distributions: Sequence[Tensor], divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if len(distributions) < 2:
        raise ConfigError(f"distillation compares views, but got {len(distributions)}; give at least two latents")
    return torch.stack([divergence(p, q) for p, q in combinations(distributions, 2)]).mean(dim=0)


def _shifted_distribution(latent: Tensor) -> Tensor:
    mean = latent.float().mean(dim=1)
    lowest = gather_rows(mean.min().reshape(1)).min()
    shifted = mean + lowest.abs()
    return shifted / shifted.sum(dim=1, keepdim=True)


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (_kullback_leibler(p, middle) + _kullback_leibler(q, middle)) / 2


def _kullback_leibler(p: Tensor, q: Tensor) -> Tensor:
    eps = 1e-12
    return (p * ((p + eps) / (q + eps)).log()).sum(dim=1)


def _teach_each_other(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Both Kullback-Leibler divergences of two log-distributions, each from a teacher that gets no gradient."""
    roles = ((log_p.detach(), log_q), (log_q.detach(), log_p))
    divergences = [F.kl_div(student, teacher, reduction="none", log_target=True) for teacher, student in roles]
    return (divergences[0] + divergences[1]).sum(dim=1) / 2
