"""What a build is proved on: seeded inputs at every batch size that matters, and clips through the preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays, Case
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.frame_numbers import MIDDLE_FRAME
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import reader_for
from kdcmae.data.shard_files import named_clips
from kdcmae.runtime import feeding
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

__all__ = ["GOLDEN", "batch_cases", "clip_cases", "cut_note", "made_clips", "on_clips"]

GOLDEN = "golden"

# Every rung runs every case on a CPU: a tiny model takes its largest batch, the base model three samples a batch.
_WORK = 500_000_000  # parameters times samples
_MADE_CLIPS = 4

_RawClip = tuple[NDArray[np.float32], NDArray[np.uint8]]  # (S,) at SAMPLE_RATE_HZ, and (H, W, 3)


def batch_cases(model: EngineModel, batch: BatchRange) -> Iterator[Case]:
    """Seeded inputs at the smallest, the tuned and the largest batch, as far as the model's size allows.

    The first case is the one that the engine's self-test gets: two samples where the engine takes them, since one
    would not show a batch axis that got mixed up.
    """
    golden = min(batch.max, max(batch.min, 2))
    yield _case(model, GOLDEN, models.examples(model, golden))
    for size in sorted({batch.min, _affordable(model, batch.opt, batch), _affordable(model, batch.max, batch)}):
        if size != golden:
            yield _case(model, f"batch {size}", models.examples(model, size, seed=size))


def on_clips(model: EngineModel) -> EngineModel:
    """The same model with made clips for its seeded inputs.

    A quantised model knows the values that clips have; noise has others, and is cut off. In half precision a trained
    model is at a loss with noise: rounding then decides what it attends to, which is no fault of an engine. In float32
    nothing is rounded so far, and noise shows what clips may hide.
    """

    def examples(batch: int, seed: int) -> dict[str, NDArray[Any]]:
        return _concatenated(_prepared(model, made_clips(batch, seed=seed)))

    return model if model.examples else dataclasses.replace(model, examples=examples)


def cut_note(model: EngineModel, batch: BatchRange) -> str:
    """What :func:`batch_cases` leaves out, in words; empty where it leaves out nothing."""
    largest = _affordable(model, batch.max, batch)
    return f"largest batch run here: {largest} of {batch.max}" if largest < batch.max else ""


def clip_cases(model: EngineModel, batch: BatchRange, files: Sequence[Path]) -> Iterator[Case]:
    """Clips as an app would hand them over: made ones, and the user's own.

    Args:
        model: whose preprocessing they go through.
        batch: sizes the engine takes.
        files: video files; or manifests, shards and folders of clips.

    Raises:
        DataError: a file that cannot be read.
    """
    yield from _stacked(model, "made clips", list(made_clips(_affordable(model, _MADE_CLIPS, batch))), batch)
    for path in files:
        for record in named_clips(path):
            yield from _stacked(model, record.id, [_read(model, record)], batch)


def _affordable(model: EngineModel, samples: int, batch: BatchRange) -> int:
    """At most as many samples as a rung may take, at least as many as the engine insists on."""
    return max(batch.min, min(samples, max(1, _WORK // model.facts["parameters"])))


def made_clips(count: int, *, seed: int = 0) -> Iterator[_RawClip]:
    """Waveform and middle frame of AVSynth's first test clips."""
    data = AVSynth("test", clips=count, seed=seed)
    for record in data.records:
        clip = data.read(record, "audiovisual", (MIDDLE_FRAME,))
        assert clip.waveform is not None
        yield clip.waveform, clip.frames[0]


def _read(model: EngineModel, record: ClipRecord) -> _RawClip:
    clip = reader_for(model.preprocessing)(record, "audiovisual", (MIDDLE_FRAME,))
    assert clip.waveform is not None
    return clip.waveform, clip.frames[0]


def _stacked(model: EngineModel, name: str, clips: Sequence[_RawClip], batch: BatchRange) -> Iterator[Case]:
    """The clips in batches that the engine takes, the last clip repeated where they are too few."""
    samples = _prepared(model, clips)
    for start in range(0, len(samples), batch.max):
        chunk = samples[start : start + batch.max]
        chunk += chunk[-1:] * (batch.min - len(chunk))
        number = f" {start // batch.max + 1}" if len(samples) > batch.max else ""
        yield _case(model, name + number, _concatenated(chunk))


def _prepared(model: EngineModel, clips: Iterable[_RawClip]) -> list[dict[str, NDArray[Any]]]:
    """The model's inputs, one sample each."""
    names = [spec.name for spec in model.inputs]
    return [
        feeding.from_clip(names, model.preprocessing, waveform, SAMPLE_RATE_HZ, [frame]) for waveform, frame in clips
    ]


def _concatenated(samples: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def _case(model: EngineModel, name: str, inputs: Arrays) -> Case:
    return Case(name=name, inputs=inputs, reference=models.reference(model, inputs))
