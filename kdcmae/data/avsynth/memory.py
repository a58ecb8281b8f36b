"""AVSynth without files: clips are made when they are read, neither encoded nor decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import Modality
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.scene import FRAME_NUMBERS, Scene, clip_id, draw_scene, frame, mask, sound
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import RawClip

__all__ = ["AVSynth"]


class AVSynth:
    """One split of AVSynth, for ``ClipDataset(data.records, data.labels, settings, data.read)``.

    Args:
        split: ``train``, ``valid`` or ``test``.
        clips: how many.
        seed: of the data set.
    """

    def __init__(self, split: str, *, clips: int, seed: int = 0) -> None:
        scenes = [draw_scene(split, index, seed=seed) for index in range(clips)]
        self.labels = LABELS
        self.records = [
            ClipRecord(id=clip_id(split, index), labels=(scene.kind.name,)) for index, scene in enumerate(scenes)
        ]
        self._scenes: dict[str, Scene] = {record.id: scene for record, scene in zip(self.records, scenes, strict=True)}

    def read(self, record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
        """Make what the modality needs of a clip; a :class:`~kdcmae.data.dataset.Reader`."""
        scene = self._scenes[record.id]
        waveform = None if modality == "video" else sound(scene)
        frames = [] if modality == "audio" else [frame(scene, FRAME_NUMBERS[number]) for number in frame_numbers]
        return RawClip(waveform, frames)

    def read_mask(self, record: ClipRecord) -> NDArray[np.bool_]:
        """Where the sounding object is in the middle frame: (112, 112)."""
        return mask(self._scenes[record.id])
