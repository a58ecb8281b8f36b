"""Clips as an engine gets them: the sound and the picture of the same clip, through the model's own preprocessing."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.models import EngineModel, modality_of
from kdcmae.compile.quantize.listed import ListedClips, list_calibration
from kdcmae.data.broken import BrokenClipError, BrokenClips, clip_boundary
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import Reader, reader_for
from kdcmae.errors import DataError
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.media.resampling import SAMPLE_RATE_HZ
from kdcmae.runtime import feeding
from kdcmae.runtime.manifest import BatchRange

__all__ = ["Clips", "load_clips", "prepare_clips"]

_BROKEN_LIMIT = 0.1  # wider than a training's: so few clips are not the whole data set

Feed = Mapping[str, NDArray[Any]]


class Batches(Sequence[Feed]):
    """Inputs of several clips at a time, put together when they are asked for.

    Args:
        feeds: of the clips, one by one.
        size: of every batch; the last clip is repeated where they are too few.
    """

    def __init__(self, feeds: Sequence[Feed], size: int) -> None:
        self._feeds, self._size = feeds, size

    def __len__(self) -> int:
        return len(range(0, len(self._feeds), self._size))

    @overload
    def __getitem__(self, number: int) -> Feed: ...
    @overload
    def __getitem__(self, number: slice) -> list[Feed]: ...
    def __getitem__(self, number: int | slice) -> Feed | list[Feed]:
        if isinstance(number, slice):
            return [self[place] for place in range(len(self))[number]]
        start = range(len(self))[number] * self._size
        rows = list(self._feeds[start : start + self._size])
        rows += rows[-1:] * (self._size - len(rows))
        return rows[0] if len(rows) == 1 else {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Prepared clips.

    Args:
        source: where they came from.
        ids, labels: of each clip.
        feeds: the inputs of each clip, a batch of one.
        batch_size: that a graph takes.
        broken: clips that could not be used, and why.
    """

    source: str
    ids: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    feeds: Sequence[Feed]
    batch_size: int
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many."""
        return len(self.feeds)

    @property
    def batches(self) -> Batches:
        """Inputs in the batches that a graph takes; the last may repeat a clip to be full."""
        return Batches(self.feeds, self.batch_size)

    def part(self, numbers: Sequence[int]) -> Clips:
        """Some of the clips, by their places."""
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[number] for number in numbers),
            labels=tuple(self.labels[number] for number in numbers),
            feeds=[self.feeds[number] for number in numbers],
        )

    def targets(self, classes: LabelMap) -> NDArray[np.bool_]:
        """Which classes each clip has: (N, C).

        Raises:
            DataError: a clip with a label that no class has.
        """
        return np.stack([classes.multi_hot(labels) for labels in self.labels]) > 0


def load_clips(
    model: EngineModel, data: str | Path, batch: BatchRange, *, split: str, evaluation: str | Path | None = None
) -> Clips:
    """Read and prepare clips to calibrate on.

    Args:
        model: whose inputs they become.
        data: as of :func:`~kdcmae.compile.quantize.listed.list_data`.
        batch: sizes the graph takes; batches have its smallest.
        evaluation: as of :func:`~kdcmae.compile.quantize.listed.list_calibration`: what accuracy is measured on.

    Raises:
        DataError: data that cannot be listed, or whose every clip reports accuracy; or too many that cannot be read.
        ConfigError: no such data.
    """
    return prepare_clips(model, list_calibration(data, split=split, evaluation=evaluation), batch)


def prepare_clips(model: EngineModel, clips: ListedClips, batch: BatchRange) -> Clips:
    """Read clips and make the model's inputs of them. They lie in a temporary file: the base model's are a megabyte.

    Args:
        model: whose inputs they become.
        batch: sizes the graph takes; batches have its smallest.

    Raises:
        DataError: more than one clip in ten cannot be read, or none can.
        DiskFullError: there is no room for the temporary file.
    """
    read = clips.read or reader_for(model.preprocessing)
    limit = max(_BROKEN_LIMIT, 1 / len(clips.records))  # one of a handful may be
    broken = BrokenClips(len(clips.records), limit, fix="find all with `kdcmae data check`, and leave them out")
    usable: list[ClipRecord] = []
    feeds: list[Feed] = []
    with tempfile.TemporaryFile(prefix="kdcmae-") as room:  # its arrays keep it after it is closed
        for record in clips.records:
            try:
                feeds.append(_feed(model, record, read, room))
            except BrokenClipError as error:
                broken.add([(error.clip_id, error.reason)])
            else:
                usable.append(record)
    if not usable:
        raise DataError(f"{clips.source}: no clip can be used: {next(iter(broken.reasons.values()))}")
    return Clips(
        source=clips.source,
        ids=tuple(record.id for record in usable),
        labels=tuple(record.labels for record in usable),
        feeds=feeds,
        batch_size=batch.min,
        broken=broken.reasons,
    )


def _feed(model: EngineModel, record: ClipRecord, read: Reader, room: IO[bytes]) -> Feed:
    with clip_boundary(record.id):
        clip = read(record, modality_of(model), (MIDDLE_FRAME,))
        frames = list(clip.frames) or None
        names = [spec.name for spec in model.inputs]
        made = feeding.from_clip(names, model.preprocessing, clip.waveform, SAMPLE_RATE_HZ, frames)
        return {name: _moved(array, room) for name, array in made.items()}


def _moved(array: NDArray[Any], room: IO[bytes]) -> NDArray[Any]:
    """The same array at the end of a file."""
    start = room.seek(0, os.SEEK_END)
    room.write(np.ascontiguousarray(array).data)
    room.flush()
    return np.asarray(np.memmap(room, array.dtype, "r+", start, array.shape))
