"""The parts of a training run, and its summary."""

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
    """Source of a rank's batches; the batches of an epoch depend only on its number."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch; the same on every rank."""

    @property
    def broken(self) -> BrokenClips:
        """Unusable clips so far: of this rank, and of the others at the last synchronisation."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, all of one size, without the first ``start``."""

    def clip_id(self, index: int) -> str:
        """The id of the clip with this index."""


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
        identity: other values that determine the losses; a resumed run must have the same, except for
            the validation clips: with other clips it selects the best epoch again.
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
        weights: path of the final checkpoint.
        final: which weights that file has.
        best: the best epoch, whose weights are in a file beside it; None without validation.
        epochs, steps: of the whole run.
        stopped_early: it ended before its last epoch, because the metric did not improve.
        seconds, clips_per_second: since it was last resumed.
        metrics: of the last epoch; if weights were averaged, ``average_...`` are the validation's of the average.
        broken: unusable clips since then, and the reasons.
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
