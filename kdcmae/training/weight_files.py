"""Files of weights in a run's folder: ``last`` and ``best`` after each epoch, and ``model``, the result of the run.

Each file appears whole or not at all, holds only finite weights, and says in its metadata (``kdcmae_training``) which
they are, such as ``{"weights": "best", "epoch": 7, "mAP": 0.41}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kdcmae.checkpoints import load_classifier, load_pretrained, save_checkpoint
from kdcmae.classifier import KDCMAEClassifier
from kdcmae.errors import CheckpointError, TrainingError
from kdcmae.files.disk import writing
from kdcmae.pretraining import KDCMAE

__all__ = [
    "BEST_FILE",
    "LAST_FILE",
    "MODEL_FILE",
    "Best",
    "Final",
    "remove_partial",
    "require_finite",
    "stored_best",
    "write_weights",
]

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
_METADATA_KEY = "kdcmae_training"


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best epoch so far, counted from 1, by a metric of the validation."""

    epoch: int
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Final:
    """Which weights ``model.safetensors`` has.

    Args:
        weights: ``average`` (of epochs), ``best`` (epoch) or ``last`` (epoch).
        first_epoch, last_epoch: the epochs of the weights, counted from 1; equal unless averaged.
    """

    weights: str
    first_epoch: int
    last_epoch: int

    def __str__(self) -> str:
        if self.weights == "average":
            return f"weights averaged over epochs {self.first_epoch} to {self.last_epoch}"
        return f"weights of the {self.weights} epoch, {self.last_epoch}"


def write_weights(
    state: Mapping[str, Tensor], model: KDCMAE | KDCMAEClassifier, path: Path, facts: Mapping[str, Any]
) -> None:
    """Write weights as a checkpoint.

    Args:
        state: all tensors of the model, on the CPU.
        model: provides the configuration; its own weights are not used.
        path: of the file; an older one is replaced once the new one is complete.
        facts: about these weights, for the file's metadata.

    Raises:
        TrainingError: weights that are not finite; an older file remains.
        DiskFullError: there is no space for both; the older one remains.
    """
    require_finite(state, path)
    with torch.device("meta"):
        holder = type(model)(model.config)  # type: ignore[arg-type]
    holder.load_state_dict(state, assign=True)
    with writing(path):
        save_checkpoint(holder, path, facts={_METADATA_KEY: json.dumps(dict(facts))})


def require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse to write weights that are not finite.

    Raises:
        TrainingError: some are not finite; the message names them.
    """
    spoilt = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if spoilt:
        raise TrainingError(
            f"{path}: {len(spoilt)} of {len(state)} tensors are no longer finite, {spoilt[0]} among them, and were not "
            "written; lower learning_rate or set clip_grad_norm, and go on with --resume from the last saved state"
        )


def stored_best(folder: Path, model: KDCMAE | KDCMAEClassifier, *, epoch: int) -> dict[str, Tensor]:
    """The weights of the best epoch in a run's folder.

    Args:
        epoch: the best one as the run's state has it, from 1. A run that was killed after it wrote the weights of
            another one and before it saved its state does not know that one.

    Raises:
        CheckpointError: they are not there, not readable, or of another epoch.
    """
    path = folder / BEST_FILE
    if isinstance(model, KDCMAEClassifier):
        state = load_classifier(path, modality=model.config.modality).state_dict()
    else:
        state = load_pretrained(path).state_dict()
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    if (found := facts.get("epoch")) != epoch:
        raise CheckpointError(
            f"{path} is of epoch {found}, and the best one that the run saved is epoch {epoch}; go on past epoch "
            f"{found} with --resume and a larger --patience, which measures and writes it again"
        )
    return state


def remove_partial(folder: Path) -> None:
    """Remove partial files of a killed run from its folder; each is as large as the model."""
    for path in folder.glob(".*.partial*"):
        path.unlink(missing_ok=True)
