"""Batches of samples, prepared in worker processes; broken clips are replaced or skipped, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcmae.data.broken import BROKEN_LIMIT, Broken, BrokenClipError, BrokenClips
from kdcmae.data.dataset import ClipDataset, Sample
from kdcmae.data.parallel import interrupts_held, loader_context
from kdcmae.data.sampling import BatchSampler, Draw
from kdcmae.errors import DiskFullError

__all__ = [
    "BROKEN_LIMIT",
    "REDRAWS",
    "STOPPING",
    "ClipLoader",
    "collate",
    "evaluation_loader",
    "opened",
    "started",
    "training_loader",
]

REDRAWS = 10
"""Most clips that are tried for one place in a batch."""

STOPPING = (DiskFullError, MemoryError)
"""Errors that stop a run. A worker returns them as values, because PyTorch would add a traceback to their message."""


class _Redraw(Dataset[Sample]):
    """Replaces a broken clip by another one, so that batches keep their size on every rank."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, draw: Draw) -> Sample:
        broken: list[Broken] = []
        for attempt in range(1, REDRAWS + 1):
            try:
                return {**self._dataset[draw], "broken": broken}
            except BrokenClipError as error:
                broken.append((error.clip_id, error.reason))
                draw = self._dataset.redrawn(draw, attempt)
            except STOPPING as error:
                return {"broken": broken, "stopped": error}
        return {"broken": broken}


class _Skip(Dataset[Sample]):
    """Leaves a broken clip out of its batch, so that no clip is measured twice."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, draw: Draw) -> Sample:
        try:
            return {**self._dataset[draw], "broken": []}
        except BrokenClipError as error:
            return {"broken": [(error.clip_id, error.reason)]}
        except STOPPING as error:
            return {"broken": [], "stopped": error}


def collate(samples: list[Sample]) -> dict[str, Any]:
    """Stack the samples of a batch; collect the broken clips and the errors that stop the run."""
    whole = [sample for sample in samples if "index" in sample]
    names = [name for name in whole[0] if name != "broken"] if whole else []
    batch: dict[str, Any] = {name: torch.stack([sample[name] for sample in whole]) for name in names}
    stopped = [sample["stopped"] for sample in samples if "stopped" in sample]
    return {**batch, "broken": [broken for sample in samples for broken in sample["broken"]], "stopped": stopped}


def opened(batch: dict[str, Any], broken: BrokenClips) -> dict[str, Any]:
    """The tensors of a batch of :func:`collate`; its broken clips are counted.

    Raises:
        DataError: more clips are broken than the limit allows.
        DiskFullError, MemoryError: a process that prepared the batch met it.
    """
    for error in batch.pop("stopped"):
        raise error
    broken.add(batch.pop("broken"))
    return batch


def started(loader: DataLoader[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The batches of a loader. Ctrl-C is held back while its processes start."""
    with interrupts_held():
        return iter(loader)


class ClipLoader:
    """The batches of this rank, of any epoch. Made by :func:`training_loader` and :func:`evaluation_loader`.

    Args:
        guarded: the same, with broken clips caught.
        sampler: the batches of this rank.
        broken_limit: largest share of the clips that may be broken.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        pin_memory: for fast copies to a GPU.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        guarded: Dataset[Sample],
        sampler: BatchSampler,
        *,
        broken_limit: float,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.broken = BrokenClips(len(dataset), broken_limit)
        self._dataset = dataset
        self._asked = _Asked(sampler)
        self._loader: DataLoader[dict[str, Any]] = DataLoader(
            guarded,
            batch_sampler=self._asked,
            num_workers=workers,
            multiprocessing_context=loader_context(workers),
            persistent_workers=workers > 0,
            collate_fn=collate,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # draws the workers' seeds, so that the run's own random state does not change
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank; the same on every rank where the sampler drops the last, incomplete one."""
        return len(self._asked.sampler)

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """This rank's batches of an epoch, without the first ``start``: the samples' arrays stacked.

        What they hold depends on the epoch alone, also after a restart or with other workers. The workers serve one
        epoch at a time: asking for the next one ends it.

        Raises:
            DataError: more clips are broken than the limit allows.
        """
        self._asked.epoch, self._asked.start = epoch, start
        for batch in started(self._loader):
            if tensors := opened(batch, self.broken):
                yield tensors

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of one pass, for evaluation."""
        return self.batches(0)

    def clip_id(self, index: int) -> str:
        """The id of the clip with this ``index``."""
        return self._dataset.records[index].id


class _Asked:
    """The requested batches; torch's loader reads them again in each pass, while its workers stay alive."""

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.sampler.batches(self.epoch, self.start)

    def __len__(self) -> int:
        return len(self.sampler) - self.start


def training_loader(
    dataset: ClipDataset,
    sampler: BatchSampler,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    broken_limit: float = BROKEN_LIMIT,
) -> ClipLoader:
    """Batches that keep their size: in the place of a broken clip another one is drawn.

    Args:
        sampler: the batches of this rank; ``drop_last=True`` gives every rank as many of them.
        workers: processes that prepare batches ahead.
        pin_memory: for fast copies to a GPU.
        broken_limit: largest share of the clips that may be broken.
    """
    return ClipLoader(
        dataset, _Redraw(dataset), sampler, broken_limit=broken_limit, workers=workers, pin_memory=pin_memory
    )


def evaluation_loader(
    dataset: ClipDataset,
    sampler: BatchSampler,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    broken_limit: float = BROKEN_LIMIT,
) -> ClipLoader:
    """Batches without the broken clips, so that no clip is measured twice. Arguments as :func:`training_loader`'s."""
    return ClipLoader(
        dataset, _Skip(dataset), sampler, broken_limit=broken_limit, workers=workers, pin_memory=pin_memory
    )
