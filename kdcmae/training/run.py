"""What one training run is made of, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.data.broken import BrokenClips
from kdcmae.pretraining import KDCMAE
from kdcmae.training.settings import TrainingSettings
from kdcmae.training.tasks import Batch, Task
from kdcmae.training.weight_files import Best, Final

__all__ = ["BatchSource", "Position", "Run", "Summary"]


class BatchSource(Protocol):
    """Where a rank's batches come from; what an epoch holds depends on its number alone."""

    @property
    def batches_per_epoch(self) -> int:
        """The same on every rank."""

    @property
    def broken(self) -> BrokenClips:
        """Clips that could not be used so far: this rank's, and the others' as far as they were counted together."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, all of one size, without the first ``start``."""

    def clip_id(self, index: int) -> str:
        """The name of the clip with this index, for people."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything one training run needs.

    Args:
        model: on the CPU; it is moved and changed in place.
        task: scores the model.
        train: batches to learn from.
        validation: batches to measure after each epoch, or None.
        settings: of the training.
        output: folder for the weights, the state of the run, its settings and its log.
        identity: what else decides the losses, as plain values; a resumed run must have the same, but
            for the clips that it is measured on: with others it chooses its best epoch anew.
    """

    model: KDCMAE | KDCMAEClassifier
    task: Task
    train: BatchSource
    validation: BatchSource | None = None
    settings: TrainingSettings
    output: Path
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a run ended.

    Args:
        weights: the checkpoint it wrote.
        final: which weights that file holds.
        best: the best epoch, whose weights lie beside it; None without validation.
        epochs, steps: of the whole run.
        stopped_early: it ended before its last epoch, because nothing got better.
        seconds, clips_per_second: since it was last resumed.
        metrics: the last ones; where weights were averaged, ``average_...`` are the validation's of the average.
        broken: clips that could not be used since then, and why.
    """

    weights: Path
    final: Final
    best: Best | None
    epochs: int
    steps: int
    stopped_early: bool
    seconds: float
    clips_per_second: float
    metrics: dict[str, float]
    broken: dict[str, str]


@dataclasses.dataclass
class Position:
    """How far a run is, in optimiser steps."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
