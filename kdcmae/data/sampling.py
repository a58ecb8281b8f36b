"""Seeded orders of the clips in an epoch, and their batches on every rank.

An order depends only on the epoch, and a batch is a slice of it. A resumed run, or a run with another number of ranks
or workers, therefore sees the same clips in the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.shard_files import flaw_of
from kdcmae.errors import ConfigError, DataError

__all__ = ["Balanced", "BatchSampler", "Draw", "InOrder", "Order", "Shuffled", "balance_weights"]

Indices = NDArray[np.int64]


class Draw(NamedTuple):
    """One draw of a clip; ``epoch``, ``position`` and ``attempt`` seed what is random about it.

    Args:
        clip: its number in the list.
        epoch: which pass over the data.
        position: in the order of the epoch over all ranks.
        attempt: above 0 if this clip replaces broken ones.
    """

    clip: int
    epoch: int = 0
    position: int = 0
    attempt: int = 0


class Order(Protocol):
    """The order in which an epoch draws clips."""

    def __len__(self) -> int:
        """Draws in an epoch."""

    def indices(self, epoch: int) -> Indices:
        """Clips of an epoch, over all ranks."""


class InOrder:
    """Every clip once, as listed: for evaluation."""

    def __init__(self, clips: int) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return self._clips

    def indices(self, epoch: int) -> Indices:
        return np.arange(self._clips)


class Shuffled:
    """Every clip once, in another order each epoch."""

    def __init__(self, clips: int, *, seed: int) -> None:
        self._clips, self._seed = clips, seed

    def __len__(self) -> int:
        return self._clips

    def indices(self, epoch: int) -> Indices:
        return np.random.default_rng([self._seed, epoch]).permutation(self._clips)


class Balanced:
    """As many draws as there are clips, each with a probability in proportion to the clip's weight.

    Args:
        weights: (clips,) positive, such as :func:`balance_weights` gives.
    """

    def __init__(self, weights: NDArray[np.float64], *, seed: int) -> None:
        self._probabilities, self._seed = weights / weights.sum(), seed

    def __len__(self) -> int:
        return len(self._probabilities)

    def indices(self, epoch: int) -> Indices:
        rng = np.random.default_rng([self._seed, epoch])
        return rng.choice(len(self), size=len(self), p=self._probabilities)


def balance_weights(records: Sequence[ClipRecord], labels: LabelMap) -> NDArray[np.float64]:
    """Weights that draw clips of rare classes more often.

    Returns:
        (clips,): the sum over a clip's labels of 1000 / (clips with the label + 0.01).

    Raises:
        DataError: a clip without labels, or with an unknown one.

    Source: the published weight file for balanced sampling.
    """
    for record in records:
        if not record.labels:
            reason = flaw_of(record) or "has no labels"
            raise DataError(f"clip {record.id!r}: {reason}; balanced sampling needs the labels of all clips")
    classes = [np.array([labels.index(label) for label in record.labels]) for record in records]
    counts = np.bincount(np.concatenate(classes), minlength=len(labels))
    return np.array([(1000 / (counts[own] + 0.01)).sum() for own in classes])


class BatchSampler:
    """The batches of one rank.

    A global batch is ``world_size * batch_size`` consecutive draws, split over the ranks in rank order: together the
    parts are the batch of a single process with the same global batch size.

    Args:
        batch_size: clips per batch on this rank.
        drop_last: leave out the last, incomplete global batch, so that all ranks have as many batches of as many
            clips; otherwise it is split too, and the last ranks may have none of it.

    Raises:
        ConfigError: a rank out of range, or no complete batch.
    """

    def __init__(
        self, order: Order, *, batch_size: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"batch_size={batch_size}, rank={rank} of world_size={world_size} is out of range")
        self._order, self._batch_size = order, batch_size
        self._first, self._stride = rank * batch_size, world_size * batch_size
        self._draws = len(order) // self._stride * self._stride if drop_last else len(order)
        if self._draws == 0:
            raise ConfigError(f"{len(order)} clips do not fill one batch of {self._stride}; lower the batch size")

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return len(range(self._first, self._draws, self._stride))

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """The batches of an epoch from number ``start`` on."""
        indices = self._order.indices(epoch)[: self._draws]
        for first in range(self._first + start * self._stride, self._draws, self._stride):
            part = indices[first : first + self._batch_size]
            yield [Draw(int(index), epoch, first + offset) for offset, index in enumerate(part)]
