"""Clips as tensors for a model: a dataset in which every sample depends only on its draw.

Sound and frames are prepared by the torch modules of :mod:`kdcmae.frontend`. They compute the same as
the numpy code of an app, but faster, and with a single thread in each worker of a loader; numpy would start one thread
per core in each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kdcmae.config import Modality
from kdcmae.data.augment import Augmentation, mix_waveforms
from kdcmae.data.broken import clip_boundary
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import Reader, reader_for
from kdcmae.data.sampling import Draw
from kdcmae.data.shard_files import flaw_of
from kdcmae.errors import ConfigError, DataError
from kdcmae.frontend import AudioFrontend, ImageFrontend
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP, MIDDLE_FRAME
from kdcmae.runtime.preprocessing import FRAME_LENGTH, Preprocessing

__all__ = ["ClipDataset", "DatasetSettings", "Frames", "Reader", "Sample", "SampleMaker"]

Frames = Literal["random", "middle", "all"]
Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """How clips become samples.

    Args:
        preprocessing: the model's.
        modality: whether sound, frames or both are read.
        frames: one of the ten at ``random`` (training), the ``middle`` one, number 5 (evaluation), or ``all``.
        augmentation: of training clips; None for unchanged clips.
        seed: of the random frame and the augmentation.
    """

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    modality: Modality = "audiovisual"
    frames: Frames = "middle"
    augmentation: Augmentation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("frames", get_args(Frames)), ("modality", get_args(Modality))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")


@dataclass(frozen=True, eq=False)
class _Parts:
    """A clip before it becomes a sample: waveform (S,), images (N, 3, S, S) normalised, target (C,)."""

    waveform: NDArray[np.float32] | None
    images: Tensor | None
    target: Tensor | None

    def mixed(self, other: _Parts, weight: float) -> _Parts:
        """Mixup: this clip with ``weight``, the other with the rest."""

        def blend(ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
            return None if ours is None or theirs is None else weight * ours + (1 - weight) * theirs

        waveform = self.waveform
        if waveform is not None and other.waveform is not None:
            waveform = mix_waveforms(waveform, other.waveform, weight)
        return _Parts(waveform, blend(self.images, other.images), blend(self.target, other.target))


class SampleMaker:
    """Makes samples from clips of any source.

    Args:
        labels: the classes; None for samples without a target.
        settings: how clips become samples.
        read: gets a clip's sound and frames; None for from its files, of the time that the model hears, from its start.
    """

    def __init__(self, labels: LabelMap | None, settings: DatasetSettings, read: Reader | None) -> None:
        self.labels, self.settings = labels, settings
        facts = settings.preprocessing
        self._samples = facts.audio_samples
        self._read: Reader = read or reader_for(facts)
        self._audio = AudioFrontend(facts)
        self._silence = -facts.fbank_mean / facts.fbank_std  # a log-mel value of zero, which padding has, normalised

    def sample(
        self, record: ClipRecord, rng: np.random.Generator, partner: Callable[[np.random.Generator], ClipRecord]
    ) -> Sample:
        """One sample; all its random choices are drawn from ``rng``.

        Args:
            partner: draws the clip to mix it with.

        Raises:
            BrokenClipError: the clip or its partner cannot be used.
        """
        augmentation = self.settings.augmentation
        parts = self._parts(record, rng)
        weight = None if augmentation is None else augmentation.mixing_weight(rng)
        if weight is not None:
            parts = parts.mixed(self._parts(partner(rng), rng), weight)
        sample: Sample = {}
        if parts.waveform is not None:
            audio = self._audio(torch.from_numpy(parts.waveform)[None])[0]
            if augmentation is not None:
                audio = torch.from_numpy(augmentation.vary(audio.numpy(), rng, silence=self._silence))
            sample["audio"] = audio
        if parts.images is not None:
            sample["image"] = parts.images if self.settings.frames == "all" else parts.images[0]
        if parts.target is not None:
            sample["target"] = parts.target
        return sample

    def _parts(self, record: ClipRecord, rng: np.random.Generator) -> _Parts:
        with clip_boundary(record.id):
            clip = self._read(record, self.settings.modality, _frame_numbers(self.settings.frames, rng))
            target = None if self.labels is None else _target(record, self.labels)
            if clip.waveform is not None and len(clip.waveform) < FRAME_LENGTH:
                raise DataError(f"its sound of {len(clip.waveform)} samples is too short: {FRAME_LENGTH} are needed")
            images = [self._image(frame) for frame in clip.frames]
        waveform = None if clip.waveform is None else clip.waveform[: self._samples]
        return _Parts(waveform, torch.cat(images) if images else None, target)

    def _image(self, frame: NDArray[np.uint8]) -> Tensor:
        frontend = _image_frontend(*frame.shape[:2], self.settings.preprocessing)
        return frontend(torch.from_numpy(np.ascontiguousarray(frame))[None])


class ClipDataset(Dataset[Sample]):
    """Samples of a list of clips.

    Args:
        labels: the classes; None for samples without a target.
        settings: how clips become samples.
        read: gets a clip's sound and frames; from its files by default.

    Raises:
        DataError: no clips, or, with ``labels``, a clip without labels or with an unknown one.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        labels: LabelMap | None,
        settings: DatasetSettings,
        read: Reader | None = None,
    ) -> None:
        if not records:
            raise DataError("a dataset needs at least one clip")
        if labels is not None:
            for record in records:
                if flaw_of(record) is None:  # a flawed clip is counted as broken when it is read
                    with clip_boundary(record.id):
                        _target(record, labels)
        self.records, self.labels, self.settings = records, labels, settings
        self._maker = SampleMaker(labels, settings, read)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw | int) -> Sample:
        """One sample.

        Args:
            draw: a clip's number, or a draw of it: random choices depend only on the draw and the settings' seed.

        Returns:
            ``audio`` (T, 128) and ``image`` (3, S, S), or (10, 3, S, S) where all frames are asked for, float32 and
            normalised, as far as the modality has them; ``target`` (C,) float32 with labels; ``index`` int64.

        Raises:
            BrokenClipError: the clip, or the one it is mixed with, cannot be used.
        """
        draw = Draw(draw) if isinstance(draw, int) else draw
        rng = np.random.default_rng([self.settings.seed, *draw[1:]])
        sample = self._maker.sample(self.records[draw.clip], rng, self._partner)
        sample["index"] = torch.tensor(draw.clip)
        return sample

    def redrawn(self, draw: Draw, attempt: int) -> Draw:
        """Another clip for the same place in the order; the choice is deterministic."""
        rng = np.random.default_rng([self.settings.seed, draw.epoch, draw.position])
        return draw._replace(clip=int(rng.integers(len(self), size=attempt)[-1]), attempt=attempt)

    def _partner(self, rng: np.random.Generator) -> ClipRecord:
        return self.records[int(rng.integers(len(self.records)))]


def _frame_numbers(frames: Frames, rng: np.random.Generator) -> Sequence[int]:
    if frames == "random":
        return (int(rng.integers(FRAMES_PER_CLIP)),)
    return range(FRAMES_PER_CLIP) if frames == "all" else (MIDDLE_FRAME,)


def _target(record: ClipRecord, labels: LabelMap) -> Tensor:
    if not record.labels:
        raise DataError("has no labels, which measuring and learning from labels need; add them, or leave the clip out")
    return torch.from_numpy(labels.multi_hot(record.labels))


@lru_cache(maxsize=16)  # frames come in few sizes
def _image_frontend(height: int, width: int, preprocessing: Preprocessing) -> ImageFrontend:
    return ImageFrontend(height, width, preprocessing)
