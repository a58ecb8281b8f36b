"""Sources of clips, and every rank's share of them in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from kdcmae.collectives import rank, world_size
from kdcmae.data.avsynth.memory import open_avsynth
from kdcmae.data.avsynth.naming import names_avsynth
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.loader import evaluation_loader, training_loader
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import Reader
from kdcmae.data.sampling import Balanced, BatchSampler, InOrder, Order, Shuffled, balance_weights
from kdcmae.data.shard_files import count_clips, index_shards, list_clips, shard_paths
from kdcmae.data.shards import ShardLoader, ShardSettings
from kdcmae.data.statistics import KeptStatistics, read_statistics
from kdcmae.errors import ConfigError
from kdcmae.training.run import BatchSource
from kdcmae.training.settings import FinetuningSettings, TrainingSettings

__all__ = ["ClipList", "ClipSource", "Shards", "kept_statistics", "open_source"]


class ClipSource(Protocol):
    """Clips for training or validation."""

    def classes(self, given: LabelMap | None) -> LabelMap:
        """The classes to learn: ``given``, or those of the clips.

        Raises:
            ConfigError: none given, and the clips do not list theirs.
        """

    @property
    def has_labels(self) -> bool:
        """Whether a clip may have a label."""

    def training(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        """Training batches; the last, incomplete batch of an epoch is left out.

        Args:
            labels: the classes; None for batches without a target.
            data: how clips become samples.

        Raises:
            ConfigError: the ranks cannot share a batch evenly, or there are too few clips for one.
            DataError: a clip without labels, if labels are needed.
        """

    def validation(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        """Validation batches, in order; the arguments and errors of :meth:`training`.

        Every clip is measured once, except in pretraining, whose losses compare the clips of a whole batch: there all
        batches are of one size, the one between half of the training's and the whole of it that leaves out the fewest
        clips at the end. Fewer clips than a batch are one smaller batch.
        """

    def identity(self, settings: TrainingSettings) -> dict[str, Any]:
        """Values that determine the clips of a batch, in addition to the settings that a resumed run cannot change."""


def open_source(data: str, *, split: str) -> ClipSource:
    """The clips of a manifest or a shard, one by one; of a folder of shards; or of AVSynth, rendered on reading.

    Args:
        data: the manifest or the shard; or ``avsynth`` or the folder, followed by ``:CLIPS`` for another number of
            AVSynth's clips, or to skip counting the clips of the shards.
        split: of AVSynth: ``train`` or ``valid``.

    Raises:
        DataError: not a manifest, or shards without clips.
        ConfigError: no number of clips after the colon.
    """
    if (synth := open_avsynth(data, split=split)) is not None:
        return ClipList(synth.records, synth.labels, synth.read)
    name, count = _split_count(data)
    if not Path(name).is_dir():
        return ClipList(list_clips(name))
    shards = shard_paths(name)
    return Shards(shards, clips=count or count_clips(shards))


def kept_statistics(data: str) -> KeptStatistics | None:
    """The input statistics stored beside clips, which are named as for :func:`open_source`; None without any.

    Raises:
        DataError: they cannot be used.
    """
    return None if names_avsynth(data) else read_statistics(_split_count(data)[0])


def _split_count(data: str) -> tuple[str, int | None]:
    """A folder and the number of clips after its colon; any other name is returned unchanged."""
    name, colon, count = data.rpartition(":")
    if not colon or Path(data).exists() or not Path(name).is_dir():
        return data, None
    if not (count.isascii() and count.isdigit() and int(count) > 0):
        raise ConfigError(f"data={data}: write a number of clips, such as {name}:2000")
    return name, int(count)


@dataclass(frozen=True, eq=False)
class ClipList:
    """A list of clips.

    Args:
        records: the clips.
        labels: their classes; None for those of the records.
        read: gets a clip's sound and frames; None for from its files.
    """

    records: Sequence[ClipRecord]
    labels: LabelMap | None = None
    read: Reader | None = None

    def classes(self, given: LabelMap | None) -> LabelMap:
        return given or self.labels or LabelMap.of_records(self.records)

    @property
    def has_labels(self) -> bool:
        return any(record.labels for record in self.records)

    def training(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        dataset = ClipDataset(self.records, labels, data, self.read)
        order: Order = Shuffled(len(dataset), seed=settings.seed)
        if _balanced(settings) and labels is not None:
            order = Balanced(balance_weights(self.records, labels), seed=settings.seed)
        share = _share(settings)
        sampler = BatchSampler(order, batch_size=share, rank=rank(), world_size=world_size(), drop_last=True)
        return training_loader(dataset, sampler, **_reading(settings))

    def validation(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        dataset = ClipDataset(self.records, labels, data, self.read)
        compared = not isinstance(settings, FinetuningSettings)
        make_loader = training_loader if compared else evaluation_loader
        share = min(_share(settings), max(1, len(dataset) // world_size()))
        if compared:
            share = _share_that_fits(len(dataset), share)
        order = InOrder(len(dataset))
        sampler = BatchSampler(order, batch_size=share, rank=rank(), world_size=world_size(), drop_last=compared)
        return make_loader(dataset, sampler, **_reading(settings))

    def identity(self, settings: TrainingSettings) -> dict[str, Any]:
        return {"data.clips": _digest(f"{record.id} {record.labels}" for record in self.records)}


@dataclass(frozen=True, eq=False)
class Shards:
    """Clips streamed from tar files; the clips of a batch depend on the number of reader processes.

    Args:
        paths: the files.
        clips: in an epoch.
    """

    paths: Sequence[Path]
    clips: int

    def classes(self, given: LabelMap | None) -> LabelMap:
        if given is None:
            raise ConfigError(f"the classes of {self.paths[0].parent} are not known beforehand; use --labels FILE")
        return given

    @property
    def has_labels(self) -> bool:
        return True  # nobody looked into the shards

    def training(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        if _balanced(settings):
            raise ConfigError("balanced sampling draws clips one by one: give a manifest, or set balanced=false")
        streaming = ShardSettings(
            batch_size=_share(settings),
            clips=self.clips,
            rank=rank(),
            world_size=world_size(),
            workers=settings.workers,
            broken_limit=settings.broken_limit,
        )
        return ShardLoader(self.paths, labels, data, streaming)

    def validation(self, labels: LabelMap | None, data: DatasetSettings, settings: TrainingSettings) -> BatchSource:
        return ClipList(index_shards(self.paths)).validation(labels, data, settings)

    def identity(self, settings: TrainingSettings) -> dict[str, Any]:
        shards = _digest(path.name for path in self.paths)
        return {"data.clips": f"{self.clips} {shards}", "data.readers": (world_size(), settings.workers)}


def _balanced(settings: TrainingSettings) -> bool:
    return isinstance(settings, FinetuningSettings) and settings.balanced


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _reading(settings: TrainingSettings) -> dict[str, Any]:
    return {
        "workers": settings.workers,
        "pin_memory": torch.cuda.is_available(),
        "broken_limit": settings.broken_limit,
    }


def _share_that_fits(clips: int, most: int) -> int:
    """Clips per batch of one rank, more than half of ``most``, so that whole batches leave out as few as possible."""
    return max(range(most // 2 + 1, most + 1), key=lambda share: (-(clips % (share * world_size())), share))


def _share(settings: TrainingSettings) -> int:
    """Clips per batch of one rank."""
    shares = world_size() * settings.accumulation_steps
    if settings.batch_size % shares:
        raise ConfigError(
            f"batch_size={settings.batch_size} is not a multiple of {shares} "
            f"({world_size()} ranks, accumulation_steps={settings.accumulation_steps})"
        )
    return settings.batch_size // shares
