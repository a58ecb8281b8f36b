"""Clips as the batches of a run: every rank's share of each, in an order that the seed and the epoch decide."""

from __future__ import annotations

from typing import Any

import torch

from kdcmae.collectives import rank, world_size
from kdcmae.data.dataset import ClipDataset
from kdcmae.data.loader import ClipLoader, evaluation_loader, training_loader
from kdcmae.data.sampling import Balanced, BatchSampler, InOrder, Order, Shuffled, balance_weights
from kdcmae.errors import ConfigError
from kdcmae.training.settings import FinetuningSettings, TrainingSettings

__all__ = ["training_batches", "validation_batches"]


def training_batches(dataset: ClipDataset, settings: TrainingSettings) -> ClipLoader:
    """Batches to learn from; the last, incomplete one of an epoch is left out.

    Args:
        dataset: of the clips; with labels where they are drawn in a balanced way.
        settings: of the run.

    Raises:
        ConfigError: the ranks cannot share a batch evenly, or there are too few clips for one.
    """
    order: Order = Shuffled(len(dataset), seed=settings.seed)
    if isinstance(settings, FinetuningSettings) and settings.balanced and dataset.labels is not None:
        order = Balanced(balance_weights(dataset.records, dataset.labels), seed=settings.seed)
    sampler = _sampler(order, settings, drop_last=True)
    return training_loader(dataset, sampler, **_reading(settings))


def validation_batches(dataset: ClipDataset, settings: TrainingSettings) -> ClipLoader:
    """Batches to measure on, in order.

    Every clip is measured once, except where ranks have to work in step, as in pretraining and where a model is
    sharded: there they leave the last, incomplete batch out.

    Args:
        dataset: of the clips.
        settings: of the run.

    Raises:
        ConfigError: the ranks cannot share a batch evenly, or there are too few clips for one.
    """
    in_step = not isinstance(settings, FinetuningSettings) or settings.parallel == "fsdp"
    make_loader = training_loader if in_step else evaluation_loader
    sampler = _sampler(InOrder(len(dataset)), settings, drop_last=in_step)
    return make_loader(dataset, sampler, **_reading(settings))


def _reading(settings: TrainingSettings) -> dict[str, Any]:
    return {
        "workers": settings.workers,
        "pin_memory": torch.cuda.is_available(),
        "broken_limit": settings.broken_limit,
    }


def _sampler(order: Order, settings: TrainingSettings, *, drop_last: bool) -> BatchSampler:
    shares = world_size() * settings.accumulation_steps
    if settings.batch_size % shares:
        raise ConfigError(
            f"batch_size={settings.batch_size} is not a multiple of {shares} "
            f"({world_size()} ranks, accumulation_steps={settings.accumulation_steps})"
        )
    size = settings.batch_size // shares
    return BatchSampler(order, batch_size=size, rank=rank(), world_size=world_size(), drop_last=drop_last)
