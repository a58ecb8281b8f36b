"""WebDataset shards: clips streamed from tar files in large reads, for data on slow or shared storage.

The members of a clip stand next to each other in a shard and share their name up to the first dot: ``ID.mp4``, or
``ID.wav`` (or ``.flac``) with ``ID.0.jpg`` to ``ID.9.jpg`` (or a single ``ID.jpg``); and ``ID.json`` with ``labels``.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from kdcmae.config import Modality
from kdcmae.data.broken import BROKEN_LIMIT, Broken, BrokenClipError, BrokenClips
from kdcmae.data.dataset import DatasetSettings, Sample, SampleMaker
from kdcmae.data.loader import REDRAWS, collate
from kdcmae.data.manifest import ClipRecord, LabelMap, frame_path, parse_labels
from kdcmae.data.parallel import loader_context
from kdcmae.data.reading import RawClip, read_record
from kdcmae.errors import ConfigError, DataError

__all__ = ["ShardClip", "ShardLoader", "ShardSettings", "count_clips", "read_shard"]

_VIDEOS = ("mp4", "mkv", "webm", "mov", "avi")
_SOUNDS = ("wav", "flac", "mp3", "m4a", "ogg")


@dataclass(frozen=True, kw_only=True)
class ShardClip(ClipRecord):
    """A clip of a shard: the content of its members by what follows the first dot of their names."""

    members: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """How shards are streamed.

    Args:
        batch_size: clips per batch on this rank.
        clips: in an epoch, over all ranks.
        shuffled: clips that each reader holds and draws from; about half a megabyte each.
        rank, world_size: of this process.
        workers: processes that read; 0 reads in this one. Another number gives other batches.
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
        """That share the shards: every worker of every rank."""
        return self.world_size * max(1, self.workers)

    @property
    def batches_per_epoch(self) -> int:
        """Of one rank, the same for every rank."""
        return self.clips // (self.batch_size * self.world_size)


class ShardLoader:
    """Batches of shards; what an epoch holds depends on its number and the settings alone.

    Each epoch deals the shards out anew over all readers. An epoch has a fixed number of batches: a reader whose
    shards hold fewer clips than others' starts on them again.

    Args:
        shards: the tar files.
        labels: the classes; None for batches without a target.
        dataset: how clips become samples.
        settings: how shards are streamed.

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
        self._maker = SampleMaker(labels, dataset, _read)
        self._ids: dict[int, str] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank, the same on every rank."""
        return self._settings.batches_per_epoch

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """This rank's batches of an epoch, without the first ``start``, whose clips are read but not decoded.

        Raises:
            DataError: a shard that cannot be read, or more broken clips than the limit allows.
        """
        stream = _Stream(self._shards, self._maker, self._settings, epoch=epoch, start=start)
        loader: DataLoader[dict[str, Any]] = DataLoader(
            stream,
            batch_size=None,  # the stream makes them, so that each reader has its own
            num_workers=self._settings.workers,
            multiprocessing_context=loader_context(self._settings.workers),
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
        for batch in loader:
            self.broken.add(batch.pop("broken"))
            self._ids = dict(zip(batch["index"].tolist(), batch.pop("ids"), strict=True))
            yield batch

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
        """The clips of a reader's shards, shuffled, over and over; each with the clips that are at hand beside it."""
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._shards))
        own = [self._shards[index] for index in order[reader :: self._settings.readers]]
        rng = np.random.default_rng([self._seed, self._epoch, reader])
        for _ in itertools.count():
            held: list[ShardClip] = []
            clip = None
            for clip in itertools.chain.from_iterable(map(read_shard, own)):
                held.append(clip)
                if len(held) > self._settings.shuffled:
                    yield _taken(held, rng), held
            if clip is None:
                raise DataError(f"no clips in {', '.join(map(str, own))}")
            while held:
                yield _taken(held, rng), held

    def _sample(self, clip: ShardClip, held: list[ShardClip]) -> tuple[Sample, str]:
        """A clip's sample and id; in the place of a broken one, that of another clip at hand."""
        broken: list[Broken] = []
        for attempt in range(REDRAWS):
            index = zlib.crc32(clip.id.encode())
            rng = np.random.default_rng([self._seed, self._epoch, index, attempt])
            try:
                sample = self._maker.sample(clip, rng, partial(_any, [*held, clip]))
            except BrokenClipError as error:
                broken.append((error.clip_id, error.reason))
                clip = _any([*held, clip], rng)
            else:
                return {**sample, "index": torch.tensor(index), "broken": broken}, clip.id
        return {"broken": broken}, ""


def count_clips(shards: Sequence[Path]) -> int:
    """How many clips shards hold, from the headers of their members alone.

    Raises:
        DataError: a shard that cannot be read.
    """
    return sum(1 for shard in shards for _ in itertools.groupby(_members(shard), key=lambda member: member[0]))


def read_shard(path: Path) -> Iterator[ShardClip]:
    """The clips of a shard in order, from one sequential read.

    Raises:
        DataError: not a tar file, or truncated.
    """
    for prefix, group in itertools.groupby(_members(path), key=lambda member: member[0]):
        members = {extension: content() for _, extension, content in group}
        clip_id = PurePosixPath(prefix).name
        yield ShardClip(id=clip_id, labels=_labels(path, clip_id, members.get("json")), members=members)


def _members(path: Path) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """The files of a shard: what they share with the other members of their clip, their extension, their content."""
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
                stem, _, extension = name.partition(".")
                if member.isfile() and stem:
                    yield f"{folder}/{stem}", extension.lower(), partial(_content, shard, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: is no tar file, or truncated: {error}") from error


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None
    with file:
        return file.read()


def _labels(shard: Path, clip_id: str, content: bytes | None) -> tuple[str, ...]:
    if content is None:
        return ()
    place = f"{shard}: {clip_id}.json"
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise DataError(f"{place}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: is {fields!r} instead of an object with fields")
    return parse_labels(fields.get("labels"), place=place)


def _read(record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
    """Read a clip of a shard as if from its files: only those that are needed are written, for this moment."""
    assert isinstance(record, ShardClip)
    with TemporaryDirectory(prefix="kdcmae-") as folder:
        try:
            return read_record(_spooled(record, Path(folder), frame_numbers), modality, frame_numbers)
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from error


def _spooled(clip: ShardClip, folder: Path, frame_numbers: Sequence[int]) -> ClipRecord:
    for extension in (*_VIDEOS, *_SOUNDS):
        if extension in clip.members:
            media = folder / f"{clip.id}.{extension}"
            media.write_bytes(clip.members[extension])
            if extension in _VIDEOS:
                return ClipRecord(id=clip.id, video=media)
            break
    else:
        raise DataError(f"has neither video nor sound, only {', '.join(clip.members)}; no name may have an early dot")
    for number in frame_numbers:
        content = clip.members.get(f"{number}.jpg", clip.members.get("jpg"))
        if content is None:
            raise DataError(f"has no member {number}.jpg")
        path = frame_path(folder, clip.id, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return ClipRecord(id=clip.id, wav=media, frames_folder=folder)


def _taken(clips: list[ShardClip], rng: np.random.Generator) -> ShardClip:
    """Take one out; the last one fills its place."""
    place = int(rng.integers(len(clips)))
    clips[place], clips[-1] = clips[-1], clips[place]
    return clips.pop()


def _any(clips: list[ShardClip], rng: np.random.Generator) -> ShardClip:
    return clips[int(rng.integers(len(clips)))]


def _as_is(batch: Any) -> Any:
    return batch
