"""Clips as an engine gets them: the sound and the picture of the same clip, through the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.models import EngineModel
from kdcmae.config import Modality
from kdcmae.data.avsynth.memory import open_avsynth
from kdcmae.data.broken import clip_boundary
from kdcmae.data.frame_numbers import MIDDLE_FRAME
from kdcmae.data.manifest import ClipRecord, LabelMap, read_manifest
from kdcmae.data.reading import Reader, read_record
from kdcmae.errors import DataError
from kdcmae.runtime import feeding
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.resampling import SAMPLE_RATE_HZ
from kdcmae.text_files import name_of

__all__ = ["Clips", "load_clips"]

_LARGEST = 300
"""Clips of a manifest that are used, spread evenly over it: more teach no better ranges."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Prepared clips in the batches that a graph takes.

    Args:
        source: where they came from.
        count: how many; the last batch may repeat a clip to be full.
        batches: inputs by name.
        labels: of each clip.
    """

    source: str
    count: int
    batches: tuple[Mapping[str, NDArray[Any]], ...]
    labels: tuple[tuple[str, ...], ...]

    def targets(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which classes each clip has: (N, C).

        Args:
            names: of the classes, in the model's order.

        Raises:
            DataError: a clip without labels or with one that the model does not have.
        """
        if not all(self.labels):
            raise DataError(f"{self.source}: accuracy needs clips with labels")
        classes = LabelMap(names, names)
        return np.stack([classes.multi_hot(found) for found in self.labels]) > 0


def load_clips(model: EngineModel, data: str | Path, batch: BatchRange, *, split: str) -> Clips:
    """Read and prepare clips.

    Args:
        model: whose inputs they become.
        data: ``avsynth`` or ``avsynth:CLIPS``, or a manifest.
        batch: sizes the graph takes; batches have its smallest.
        split: of AVSynth.

    Raises:
        DataError: a manifest or clip that cannot be read.
        ConfigError: no such data.
    """
    records, read, source = _records(str(data), split)
    modality = _modality(model)
    feeds = [_feed(model, record, read, modality) for record in records]
    batches = []
    for start in range(0, len(feeds), batch.min):
        rows = feeds[start : start + batch.min]
        rows += rows[-1:] * (batch.min - len(rows))
        batches.append({spec.name: np.concatenate([row[spec.name] for row in rows]) for spec in model.inputs})
    labels = tuple(record.labels for record in records)
    return Clips(source=source, count=len(feeds), batches=tuple(batches), labels=labels)


def _records(data: str, split: str) -> tuple[list[ClipRecord], Reader, str]:
    made = open_avsynth(data, split=split)
    if made is not None:
        return made.records, made.read, f"AVSynth {split}"
    records = read_manifest(Path(data))
    if not records:
        raise DataError(f"{data} lists no clips")
    places = np.linspace(0, len(records) - 1, min(len(records), _LARGEST)).astype(int)
    return [records[place] for place in places], read_record, name_of(data)


def _modality(model: EngineModel) -> Modality:
    sources = feeding.sources(spec.name for spec in model.inputs)
    if sources == {"waveform"}:
        return "audio"
    return "video" if sources == {"frame"} else "audiovisual"


def _feed(model: EngineModel, record: ClipRecord, read: Reader, modality: Modality) -> dict[str, NDArray[Any]]:
    with clip_boundary(record.id):
        clip = read(record, modality, (MIDDLE_FRAME,))
        frames = list(clip.frames) or None
        names = [spec.name for spec in model.inputs]
        return feeding.from_clip(names, model.preprocessing, clip.waveform, SAMPLE_RATE_HZ, frames)
