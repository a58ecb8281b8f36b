"""The clips of a manifest or of shards, or of AVSynth, as batches for the evaluation tasks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcmae.data.avsynth.memory import open_avsynth
from kdcmae.data.broken import BrokenClipError
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.images import read_image
from kdcmae.data.loader import BROKEN_LIMIT, evaluation_loader
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.sampling import BatchSampler, InOrder
from kdcmae.data.shard_files import list_clips
from kdcmae.errors import DataError
from kdcmae.evaluation.pictures import Shown, clip_pictures
from kdcmae.predictors import BATCH_SIZE
from kdcmae.runtime.preprocessing import resize_crop_matrices

__all__ = ["EvaluationClips", "LoaderSettings", "classes_of", "label_map", "read_mask"]


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How clips are read.

    Args:
        batch_size: clips per batch.
        workers: reader processes; 0 reads in this process.
        broken_limit: largest share of the clips that may be unusable before the evaluation stops.
    """

    batch_size: int = BATCH_SIZE
    workers: int = 0
    broken_limit: float = BROKEN_LIMIT


class EvaluationClips:
    """Every usable clip once, in order.

    Iterating gives batches: ``audio`` (B, T, 128), ``image`` (B, 3, S, S) or (B, 10, 3, S, S), depending on the
    modality, ``target`` (B, C) with labels, and ``index`` (B,).

    Args:
        data: a manifest, a shard or a folder of them, see :func:`~kdcmae.data.shard_files.list_clips`; or
            ``avsynth[:CLIPS]``.
        labels: the classes; None for batches without a target.
        dataset: how clips become samples.

    Raises:
        DataError: neither of them, or, with ``labels``, a clip without labels or with an unknown one.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        labels: LabelMap | None,
        dataset: DatasetSettings,
        loader: LoaderSettings,
        *,
        split: str = "test",
    ) -> None:
        self._synth = open_avsynth(os.fspath(data), split=split)
        self.records: list[ClipRecord] = list_clips(data) if self._synth is None else self._synth.records
        read = None if self._synth is None else self._synth.read
        self._preprocessing = dataset.preprocessing
        self._dataset = ClipDataset(self.records, labels, dataset, read)
        self._last_pass: list[int] = []  # numbers of the clips in the last pass
        self._loader = evaluation_loader(
            self._dataset,
            BatchSampler(InOrder(len(self.records)), batch_size=loader.batch_size),
            workers=loader.workers,
            broken_limit=loader.broken_limit,
        )

    def __len__(self) -> int:
        """Batches."""
        return self._loader.batches_per_epoch

    @property
    def skipped(self) -> dict[str, str]:
        """Clips that could not be used so far, and the reasons."""
        return self._loader.broken.reasons

    @property
    def has_masks(self) -> bool:
        """Whether every clip has a mask of its sounding object."""
        return self._synth is not None or all(record.mask is not None for record in self.records)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self._last_pass = []
        for batch in self._loader:
            self._last_pass += batch["index"].tolist()
            yield batch

    @property
    def ids(self) -> list[str]:
        """Ids of the clips of the last pass, in order."""
        return [self.records[number].id for number in self._last_pass]

    def pictures(self, ids: Iterable[str]) -> dict[str, dict[str, Shown]]:
        """Thumbnails of clips of the last pass by their ids; see :func:`~kdcmae.evaluation.pictures.clip_pictures`.

        The clips are read again, so that an evaluation need not hold every frame in memory. A clip that cannot be read
        again has no pictures.
        """
        pictures = {}
        numbers = {self.records[number].id: number for number in self._last_pass}
        for clip in dict.fromkeys(ids):
            with suppress(BrokenClipError):
                pictures[clip] = clip_pictures(self._dataset[numbers[clip]], self._preprocessing)
        return pictures

    def masked(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Add ``mask`` (B, S, S) bool, true where the sounding object is, to batches of these clips.

        Raises:
            DataError: a clip without a mask, or one that cannot be read.
        """
        for batch in batches:
            masks = [self._mask(self.records[number]) for number in batch["index"].tolist()]
            yield {**batch, "mask": torch.stack(masks)}

    def _mask(self, record: ClipRecord) -> Tensor:
        if self._synth is not None:
            return _resized(self._synth.read_mask(record).astype(np.float64), self._preprocessing.image_size)
        if record.mask is None:
            raise DataError(f"clip {record.id!r}: its manifest names no mask of the sounding object")
        return read_mask(record.mask, self._preprocessing.image_size)


def read_mask(path: Path, size: int) -> Tensor:
    """A mask, resized and cropped like the model's image.

    Args:
        path: a picture, white where the object is.
        size: side of the model's image, in pixels.

    Returns:
        (size, size) bool, true where at least half of a pixel is white.

    Raises:
        DataError: not a readable picture.
    """
    return _resized(read_image(path).mean(axis=-1) / 255, size)


def _resized(white: NDArray[np.float64], size: int) -> Tensor:
    """(H, W) in [0, 1] -> (size, size) bool."""
    rows, columns = resize_crop_matrices(*white.shape, size)
    return torch.from_numpy(np.asarray(rows @ white @ columns.T >= 0.5))


def classes_of(data: str) -> LabelMap:
    """The classes that occur in a manifest or in shards, or those of AVSynth.

    Raises:
        DataError: neither of them.
    """
    synth = open_avsynth(data, split="train")
    return LabelMap.of_records(list_clips(data)) if synth is None else synth.labels


def label_map(model_labels: tuple[str, ...], path: Path | None) -> LabelMap:
    """The classes of a manifest in the order of a model's outputs.

    Args:
        model_labels: the model's own.
        path: a label file; needed if the model's own labels are placeholders, or if the manifest uses ids.

    Raises:
        DataError: the file names other classes than the model.
    """
    if path is None:
        return LabelMap(model_labels, model_labels)
    labels = LabelMap.read(path)
    if len(labels) != len(model_labels):
        raise DataError(f"{path} names {len(labels)} classes and the model has {len(model_labels)}")
    made_up = model_labels == tuple(f"class_{index}" for index in range(len(model_labels)))
    for index, (ours, theirs) in enumerate(zip(labels.names, model_labels, strict=True)):
        if ours != theirs and not made_up:
            raise DataError(f"{path}: class {index} is {ours!r}, and the model calls it {theirs!r}")
    return labels
