"""WebDataset shards: clips streamed from tar files in large reads, for data on slow or shared storage."""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kdcmae.data.broken import BROKEN_LIMIT, Broken, BrokenClipError, BrokenClips
from kdcmae.data.dataset import DatasetSettings, Sample, SampleMaker
from kdcmae.data.loader import REDRAWS, STOPPING, collate, opened, started
from kdcmae.data.manifest import LabelMap
from kdcmae.data.parallel import loader_context
from kdcmae.data.shard_files import ShardClip, read_whole_clips
from kdcmae.errors import ConfigError, DataError

__all__ = ["ShardLoader", "ShardSettings"]


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How shards are streamed.

    Args:
        batch_size: clips per batch on this rank.
        clips: number of clips in an epoch, over all ranks.
        shuffled: size of each reader's shuffle buffer in clips; about half a megabyte per clip.
        rank, world_size: of this process.
        workers: reader processes; 0 reads in this process. The batches depend on the number.
        broken_limit: largest share of the clips that may be broken.
    """

    batch_size: int
    clips: int
    shuffled: int = 64
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    broken_limit: float = BROKEN_LIMIT

    @property
    def readers(self) -> int:
        """Number of readers that share the shards: all workers of all ranks."""
        return self.world_size * max(1, self.workers)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each rank in an epoch."""
        return self.clips // (self.batch_size * self.world_size)


class ShardLoader:
    """Batches of shards; the batches of an epoch depend only on its number and the settings.

    Each epoch deals the shards out anew over all readers. An epoch has a fixed number of batches: a reader that
    runs out of clips starts over with its shards.

    Args:
        labels: the classes; None for batches without a target.
        dataset: how clips become samples.

    Raises:
        ConfigError: fewer shards than readers, or not one full batch.
    """

    def __init__(
        self, shards: Sequence[Path], labels: LabelMap | None, dataset: DatasetSettings, settings: ShardSettings
    ) -> None:
        if len(shards) < settings.readers:
            raise ConfigError(
                f"{len(shards)} shards for {settings.readers} readers ({settings.world_size} ranks, "
                f"{settings.workers} workers): each needs one of its own; use fewer workers or smaller shards"
            )
        if settings.batches_per_epoch < 1:
            raise ConfigError(f"{settings.clips} clips do not fill one batch of batch_size={settings.batch_size}")
        self.broken = BrokenClips(settings.clips, settings.broken_limit)
        self._shards, self._settings = list(shards), settings
        self._maker = SampleMaker(labels, dataset, None)
        self._ids: dict[int, str] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank, the same on every rank."""
        return self._settings.batches_per_epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """This rank's batches of an epoch, without the first ``start``, whose clips are read and not decoded.

        Raises:
            DataError: no shard holds a clip, or more are broken than the limit allows; the rest of a damaged shard
                counts as one clip.
        """
        stream = _Stream(self._shards, self._maker, self._settings, epoch=epoch, start=start)
        loader: DataLoader[dict[str, Any]] = DataLoader(
            stream,
            batch_size=None,  # the stream makes the batches, so that each reader has its own
            num_workers=self._settings.workers,
            multiprocessing_context=loader_context(self._settings.workers),
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
        for batch in started(loader):
            ids = batch.pop("ids")
            if tensors := opened(batch, self.broken):
                self._ids = dict(zip(tensors["index"].tolist(), ids, strict=True))
                yield tensors

    def clip_id(self, index: int) -> str:
        """The name of a clip of the latest batch with this ``index``."""
        return self._ids.get(index, f"#{index}")


class _Stream(IterableDataset[dict[str, Any]]):
    """One epoch of a rank; each worker process iterates a copy of its own."""

    def __init__(
        self, shards: list[Path], maker: SampleMaker, settings: ShardSettings, *, epoch: int, start: int
    ) -> None:
        self._shards, self._maker, self._settings = shards, maker, settings
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        # Torch takes batches from its workers in turn, from the first on; batch k is due from reader k % workers.
        reader = (number + self._start) % workers
        draws = self._draws(self._settings.rank * workers + reader)
        for batch in range(reader, self._settings.batches_per_epoch, workers):
            drawn = itertools.islice(draws, self._settings.batch_size)
            if batch < self._start:
                deque(drawn, maxlen=0)
                continue
            samples = [self._sample(clip, held) for clip, held in drawn]
            yield {**collate([sample for sample, _ in samples]), "ids": [name for _, name in samples if name]}

    @property
    def _seed(self) -> int:
        return self._maker.settings.seed

    def _draws(self, reader: int) -> Iterator[tuple[ShardClip, list[ShardClip]]]:
        """The clips of a reader's shards, shuffled and repeated without end; each with the current shuffle buffer."""
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._shards))
        own = [self._shards[index] for index in order[reader :: self._settings.readers]]
        rng = np.random.default_rng([self._seed, self._epoch, reader])
        for _ in itertools.count():
            held: list[ShardClip] = []
            clip = None
            for clip in itertools.chain.from_iterable(map(read_whole_clips, own)):
                held.append(clip)
                if len(held) > self._settings.shuffled:
                    yield _taken(held, rng), held
            if clip is None:
                raise DataError(f"no clips in {', '.join(map(str, own))}")
            while held:
                yield _taken(held, rng), held

    def _sample(self, clip: ShardClip, held: list[ShardClip]) -> tuple[Sample, str]:
        """A clip's sample and id; a broken clip is replaced by another one from the buffer."""
        broken: list[Broken] = []
        for attempt in range(REDRAWS):
            index = zlib.crc32(clip.id.encode())
            rng = np.random.default_rng([self._seed, self._epoch, index, attempt])
            try:
                sample = self._maker.sample(clip, rng, partial(_any, [*held, clip]))
            except BrokenClipError as error:
                broken.append((error.clip_id, error.reason))
                clip = _any([*held, clip], rng)
            except STOPPING as error:
                return {"broken": broken, "stopped": error}, ""
            else:
                return {**sample, "index": torch.tensor(index), "broken": broken}, clip.id
        return {"broken": broken}, ""


def _taken(clips: list[ShardClip], rng: np.random.Generator) -> ShardClip:
    """Remove and return a random clip; the last clip takes its place."""
    place = int(rng.integers(len(clips)))
    clips[place], clips[-1] = clips[-1], clips[place]
    return clips.pop()


def _any(clips: list[ShardClip], rng: np.random.Generator) -> ShardClip:
    return clips[int(rng.integers(len(clips)))]


def _as_is(batch: Any) -> Any:
    return batch
