"""Validation after each epoch: every validation clip once, on one process or on many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcmae.data.broken import BrokenClips
from kdcmae.errors import DataError, TrainingError
from kdcmae.training.distributed import Spread, gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdcmae.training.run import BatchSource

__all__ = ["Confusion", "Criterion", "Measured", "Rows", "Validation", "count_together", "validate"]

Rows = dict[str, NDArray[Any]]
"""Observations of clips by name: arrays with a row per clip, including ``index`` (N,)."""

_NAMED_CLIPS = 10


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The validation metric that selects the best epoch.

    Args:
        metric: its name.
        higher_is_better: true for an accuracy, false for a loss.
    """

    metric: str
    higher_is_better: bool

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value beats another one; a tie does not, and NaN never does."""
        return value > than if self.higher_is_better else value < than


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """Counts (C, C) of clips by own class (rows) and best class (columns), and the names of the classes."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """Metrics over all clips.

    Args:
        metrics: by name.
        confusion: of classes; None for a task without classes.
    """

    metrics: dict[str, float]
    confusion: Confusion | None = None


class Measured(Protocol):
    """A task as validation uses it."""

    def observe(self, model: nn.Module, batch: Mapping[str, Tensor], draw: int) -> dict[str, Tensor]:
        """Observations for :meth:`summarize`, a row per clip of a batch.

        Args:
            model: the model itself, in evaluation mode.
            batch: of this rank, on the model's device.
            draw: random choices depend only on this number and on the clips.
        """

    def summarize(self, rows: Rows) -> Validation:
        """Compute the metrics over the clips of all ranks, in the order of their numbers."""

    def blank(self) -> dict[str, Tensor]:
        """A batch of one empty clip, for a rank without clips that must take part in a collective call."""


def validate(
    task: Measured,
    spread: Spread,
    source: BatchSource,
    *,
    moved: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    precision: Callable[[], AbstractContextManager[Any]],
) -> Validation:
    """Validate a model, with the same random choices in every call.

    Args:
        spread: the distributed model.
        source: of this rank's clips. Each rank reads a part of them, and all ranks return the same.
        moved: moves a batch to the model's device.

    Raises:
        TrainingError: the model's outputs for some clips are not finite.
        DataError: no clip can be used, or more clips are broken than the limit allows.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    with spread.evaluating() as model:
        for number, batch in enumerate(_in_step(source.batches(0, 0))):
            with precision():
                observed = task.observe(model, moved(batch or task.blank()), number)
            if batch is not None:
                own = {name: tensor.float().cpu().numpy() for name, tensor in observed.items()}
                parts.append({**own, "index": batch["index"].cpu().numpy()})
    count_together(source.broken)
    rows = _rows_of_all_ranks(parts)
    _require_finite(rows, source)
    return task.summarize(rows)


def count_together(broken: BrokenClips) -> None:
    """Add the broken clips of the other ranks: each rank reads a part of the clips, and the limit applies to all."""
    for reasons in gathered(broken.reasons):
        broken.add(reasons.items())


def _in_step(batches: Iterator[Mapping[str, Tensor]]) -> Iterator[Mapping[str, Tensor] | None]:
    """A rank's batches, then None while another rank has some: all ranks must call a sharded model together."""
    while True:
        batch = next(batches, None)
        if not any(gathered(batch is not None)):
            return
        yield batch


def _rows_of_all_ranks(parts: list[Rows]) -> Rows:
    """Observations of all ranks in the order of the clips, so that sums equal those of a single process.

    Raises:
        DataError: no rank observed any clip.
    """
    everywhere = [part for rank_parts in gathered(parts) for part in rank_parts]
    if not everywhere:
        raise DataError("none of the validation clips can be used; see `kdcmae data check`")
    rows = {name: np.concatenate([part[name] for part in everywhere]) for name in everywhere[0]}
    order = np.argsort(rows["index"], kind="stable")
    return {name: array[order] for name, array in rows.items()}


def _require_finite(rows: Rows, source: BatchSource) -> None:
    finite = np.ones(len(rows["index"]), dtype=bool)
    for array in rows.values():
        finite &= np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not finite.all():
        clips = [source.clip_id(index) for index in rows["index"][~finite][:_NAMED_CLIPS].tolist()]
        raise TrainingError(
            f"what the model computes of {np.count_nonzero(~finite)} of {len(finite)} validation clips is not finite; "
            f"lower learning_rate, set clip_grad_norm, or check these clips: {', '.join(clips)}"
        )
