"""The optimiser, the learning rate schedule, and the average of weights over epochs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from kdcmae.training.settings import FinetuningSettings, TrainingSettings

__all__ = ["WeightAverage", "build_optimizer", "learning_rate", "select_trained"]

_HEAD = "mlp_head."


def select_trained(model: nn.Module, settings: TrainingSettings) -> None:
    """Freeze parameters that the settings do not train: a linear probe trains only the head."""
    if isinstance(settings, FinetuningSettings) and settings.trained == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(_HEAD))


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> Adam:
    """Adam over the trained parameters; each group's ``factor`` multiplies the learning rate."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    head_factor = settings.head_learning_rate_factor if isinstance(settings, FinetuningSettings) else 1.0
    body = [parameter for name, parameter in trained.items() if not name.startswith(_HEAD)]
    head = [parameter for name, parameter in trained.items() if name.startswith(_HEAD)]
    groups = [{"params": body, "factor": 1.0}, {"params": head, "factor": head_factor}]
    return Adam(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: TrainingSettings, *, epoch: int, step: int) -> float:
    """The encoder's learning rate.

    Args:
        epoch: finished epochs.
        step: finished optimiser steps.
    """
    past_start = epoch - settings.decay_start_epoch
    decays = 1 + past_start // settings.decay_every_epochs if past_start >= 0 else 0
    warmth = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return settings.learning_rate * settings.decay_factor**decays * warmth


class WeightAverage:
    """The running mean of model states."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, state: dict[str, Tensor]) -> None:
        """Add one state on the CPU; it is not changed."""
        self.count += 1
        if self.count == 1:
            self.mean = {name: tensor.clone() for name, tensor in state.items()}
        for name, mean in self.mean.items():
            mean.lerp_(state[name], 1 / self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.mean = state["count"], state["mean"]
