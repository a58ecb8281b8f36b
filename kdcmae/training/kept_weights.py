"""Weights that a run saves: the last epoch's, the best epoch's, and the average over epochs if its recipe has one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.collectives import rank
from kdcmae.pretraining import KDCMAE
from kdcmae.training.optim import WeightAverage
from kdcmae.training.settings import TrainingSettings
from kdcmae.training.validation import Criterion
from kdcmae.training.weight_files import BEST_FILE, LAST_FILE, Best, Final, stored_best, write_weights

__all__ = ["KeptWeights"]


class KeptWeights:
    """Tracks the best epoch and the average; the first rank writes files.

    Args:
        criterion: tells which epoch is best.
    """

    def __init__(
        self, model: KDCMAE | KDCMAEClassifier, criterion: Criterion, settings: TrainingSettings, folder: Path
    ) -> None:
        self._model, self._criterion, self._settings, self._folder = model, criterion, settings, folder
        self.average = WeightAverage()
        self.best: Best | None = None

    def end_epoch(self, epoch: int, state: dict[str, Tensor], measured: Mapping[str, float] | None) -> bool:
        """Record the weights of an epoch, before the state of the run is saved.

        Args:
            epoch: its number, from 1.
            state: all weights on the CPU, on the first rank at least.
            measured: the validation's metrics, the same on every rank; None without validation.

        Returns:
            Whether it is the best one so far.

        Raises:
            DiskFullError: there is no space; older files remain.
        """
        first = self._settings.average_from_epoch
        if first is not None and epoch >= first:
            self.average.add(state)
        best = measured is not None and self._is_best(epoch, measured[self._criterion.metric])
        if rank() == 0:
            for name, file in {"last": LAST_FILE, **({"best": BEST_FILE} if best else {})}.items():
                facts = {"weights": name, "epoch": epoch, **{f"validation_{k}": v for k, v in (measured or {}).items()}}
                write_weights(state, self._model, self._folder / file, facts)
        return best

    def is_stale(self, epoch: int) -> bool:
        """Whether the best epoch is as long ago as the settings allow."""
        patience = self._settings.early_stop_epochs
        return patience is not None and self.best is not None and epoch - self.best.epoch >= patience

    def final(self, epoch: int) -> tuple[Final, dict[str, Tensor]]:
        """The result of the run.

        It is the average, if the recipe has one and the run reached it; else the best epoch, if the run may stop early,
        because it trains past that epoch to find out; else the last epoch.

        Args:
            epoch: the last one, from 1.

        Returns:
            Which weights these are, and the weights, at least on the first rank; none for the last epoch.

        Raises:
            CheckpointError: the file of the best epoch is not there any more, or is of another epoch.
        """
        first = self._settings.average_from_epoch
        if first is not None and self.average.count:
            return Final(weights="average", first_epoch=first, last_epoch=epoch), self.average.mean
        if self._settings.early_stop_epochs is not None and self.best is not None:
            number = self.best.epoch
            weights = stored_best(self._folder, self._model, epoch=number) if rank() == 0 else {}
            return Final(weights="best", first_epoch=number, last_epoch=number), weights
        return Final(weights="last", first_epoch=epoch, last_epoch=epoch), {}

    def state_dict(self) -> dict[str, Any]:
        best = None if self.best is None else dataclasses.asdict(self.best)
        return {"average": self.average.state_dict(), "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average.load_state_dict(state["average"])
        best = state.get("best")  # absent in runs of earlier versions
        self.best = None if best is None else Best(**best)

    def _is_best(self, epoch: int, value: float) -> bool:
        if math.isnan(value) or (self.best is not None and not self._criterion.is_better(value, self.best.value)):
            return False
        self.best = Best(epoch=epoch, metric=self._criterion.metric, value=value)
        return True
