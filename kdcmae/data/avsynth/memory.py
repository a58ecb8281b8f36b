"""AVSynth in memory: clips are rendered when they are first read, without encoding or decoding, and cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import Modality
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.naming import CLIPS, names_avsynth
from kdcmae.data.avsynth.scene import FRAME_NUMBERS, Scene, clip_id, draw_scene, frame, mask, sound
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import RawClip
from kdcmae.errors import ConfigError

__all__ = ["AVSynth", "open_avsynth"]

logger = logging.getLogger(__name__)

_MOST_CLIPS = 1_000_000  # the description of every clip is in memory from the start


class AVSynth:
    """One split of AVSynth, for ``ClipDataset(data.records, data.labels, settings, data.read)``.

    Rendering a sound or a frame takes milliseconds, so each is cached: at most half a megabyte per clip. Every worker
    of a loader has a cache of its own, so training is fastest without workers.

    Args:
        split: ``train``, ``valid`` or ``test``.

    Raises:
        ConfigError: more clips than fit into memory.
    """

    def __init__(self, split: str, *, clips: int, seed: int = 0) -> None:
        if clips > _MOST_CLIPS:
            raise ConfigError(f"{clips} clips of AVSynth are too many; take at most {_MOST_CLIPS}")
        scenes = [draw_scene(split, index, seed=seed) for index in range(clips)]
        self.labels = LABELS
        self.records = [
            ClipRecord(id=clip_id(split, index), labels=(scene.kind.name,)) for index, scene in enumerate(scenes)
        ]
        self._scenes: dict[str, Scene] = {record.id: scene for record, scene in zip(self.records, scenes, strict=True)}
        self._sounds: dict[str, NDArray[np.float32]] = {}
        self._frames: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def read(self, record: ClipRecord, modality: Modality, frame_numbers: Sequence[int]) -> RawClip:
        """The sound and frames of a clip that the modality needs, read-only; a :class:`~kdcmae.data.dataset.Reader`."""
        waveform = None if modality == "video" else self._sound(record.id)
        frames = [] if modality == "audio" else [self._frame(record.id, number) for number in frame_numbers]
        return RawClip(waveform, frames)

    def read_mask(self, record: ClipRecord) -> NDArray[np.bool_]:
        """Where the sounding object is in the middle frame: (112, 112)."""
        return mask(self._scenes[record.id])

    def _sound(self, name: str) -> NDArray[np.float32]:
        if name not in self._sounds:
            self._sounds[name] = sound(self._scenes[name])
        return self._sounds[name]

    def _frame(self, name: str, number: int) -> NDArray[np.uint8]:
        if (name, number) not in self._frames:
            self._frames[name, number] = frame(self._scenes[name], FRAME_NUMBERS[number])
        return self._frames[name, number]


def open_avsynth(data: str | Path, *, split: str) -> AVSynth | None:
    """The split of AVSynth that ``avsynth`` or ``avsynth:CLIPS`` names; None for anything else.

    Raises:
        ConfigError: no number of clips after the colon.
    """
    if not names_avsynth(data):
        return None
    if Path(data).exists():
        logger.warning("%s means the clips that kdcmae makes; write ./%s for the file or folder here", data, data)
    _, _, count = str(data).partition(":")
    return AVSynth(split, clips=int(count) if count else CLIPS[split])
