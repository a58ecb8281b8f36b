"""What a build is proved on: seeded inputs at every batch size that matters, and clips through the preprocessing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Case
from kdcmae.compile.quantize.listed import spread
from kdcmae.compile.references import concatenated, outputs_of
from kdcmae.compile.settings import MOST_CLIPS
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.broken import clip_boundary
from kdcmae.data.reading import reader_for
from kdcmae.data.shard_files import named_clips
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.runtime import feeding
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

__all__ = [
    "GOLDEN",
    "PAIRED_CLIPS",
    "RawClip",
    "affordable_clips",
    "as_int16",
    "batch_cases",
    "clip_cases",
    "cut_note",
    "made_clips",
    "on_clips",
    "own_clips",
    "proof",
    "shortened",
]

GOLDEN = "golden"

PAIRED_CLIPS = 64
"""Clips of sound and picture that an engine is proved on, the user's own among them: with as many, an agreement of
100 % says that of new clips at least 95 % agree, with a confidence of 95 %."""

# Parameters times samples that a CPU computes in seconds. Every rung runs every batch within the first, and clips: a
# tiny model takes them all, the base model three. The reference and the artifact run 64 clips, but of a model that
# is large only those within the second: ten of the base model, with which the proof adds 30 % to a build. Of a model
# with random weights, whose classes mean nothing, the numbers alone can be proved, on the clips within the third.
_WORK = 500_000_000
_PAIRED_WORK = 1_700_000_000
_LARGE = 100_000_000  # parameters
_UNTRAINED_WORK = 350_000_000

# (S,) at SAMPLE_RATE_HZ, and (H, W, 3); None of what the model has no input for
RawClip = tuple[NDArray[np.float32] | NDArray[np.int16] | None, NDArray[np.uint8] | None]


def proof(
    model: EngineModel, batch: BatchRange, paths: Sequence[Path], *, rounds: bool, wanted: int | None = None
) -> tuple[Case, ...]:
    """Everything that an engine is proved on: batches of every size, and clips.

    Args:
        model, batch, paths, wanted: as for :func:`clip_cases`.
        rounds: the engine does. Then the batches are of the user's own clips where there are any: made ones may lie
            beyond the ranges of a model that was calibrated on its own.

    Raises:
        DataError: a clip that cannot be read.
    """
    clips = tuple(clip_cases(model, batch, paths, wanted))
    yours = next((case for case in clips if case.clips == "yours"), None)
    if rounds and yours is not None:
        model = dataclasses.replace(model, examples=functools.partial(_samples_of, yours))
    return (*batch_cases(model, batch), *clips)


def batch_cases(model: EngineModel, batch: BatchRange) -> Iterator[Case]:
    """Seeded inputs at the smallest, the tuned and the largest batch, as far as the model's size allows.

    The first case is like the one that the engine's self-test gets: two samples where the engine takes them, since one
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
        return concatenated(_prepared(model, made_clips(batch, seed=seed)))

    return model if model.examples else dataclasses.replace(model, examples=examples)


def cut_note(model: EngineModel, batch: BatchRange, *, of: Sequence[Case], ran: Sequence[Case]) -> str:
    """What of the batches and clips a rung leaves out, in words; empty where it leaves out nothing.

    Args:
        model, batch: as for :func:`batch_cases`.
    """
    largest = _affordable(model, batch.max, batch)
    notes = [f"largest batch run here: {largest} of {batch.max}"] if largest < batch.max else []
    some, every = (sum(case.samples for case in cases if case.clips) for cases in (ran, of))
    if some < every:
        notes.append(f"{some} of {every} clips, all of which the artifact runs")
    return "; ".join(notes)


def shortened(model: EngineModel, cases: Sequence[Case]) -> tuple[Case, ...]:
    """The same cases with as many clips as every rung can afford."""
    most = max(1, _WORK // model.facts["parameters"])
    return tuple(case.first(most) if case.clips else case for case in cases)


def clip_cases(
    model: EngineModel, batch: BatchRange, paths: Sequence[Path], wanted: int | None = None
) -> Iterator[Case]:
    """Clips as an app would hand them over: the user's own, and made ones where those are few.

    Args:
        model: whose preprocessing they go through.
        paths: media files, folders, manifests or shards.
        wanted: number of clips that made ones fill up to; by default as many as a build affords, 64 at most.

    Raises:
        DataError: a clip that cannot be read.
    """
    yours = own_clips(model, paths, MOST_CLIPS if wanted is None else wanted)
    made = (affordable_clips(model, PAIRED_CLIPS) if wanted is None else wanted) - len(yours)
    if made > 0:
        yield from _of_clips(model, "made", made_clips(made), batch)
    if yours:
        yield from _of_clips(model, "yours", yours, batch)


def affordable_clips(model: EngineModel, wanted: int) -> int:
    """As many made clips as are wanted; fewer of a large model, and of one with random weights."""
    parameters, untrained = int(model.facts["parameters"]), bool(model.facts.get("random_weights"))
    if parameters < _LARGE and not untrained:
        return wanted
    return min(wanted, max(1, (_UNTRAINED_WORK if untrained else _PAIRED_WORK) // parameters))


def _affordable(model: EngineModel, samples: int, batch: BatchRange) -> int:
    """At most as many samples as a rung may take, at least as many as the engine insists on."""
    return max(batch.min, min(samples, max(1, _WORK // int(model.facts["parameters"]))))


@functools.lru_cache(maxsize=4)
def made_clips(count: int, *, seed: int = 0) -> tuple[tuple[NDArray[np.int16], NDArray[np.uint8]], ...]:
    """Waveform and middle frame of AVSynth's first test clips, as the self-test stores them."""
    data = AVSynth("test", clips=count, seed=seed)
    clips = []
    for record in data.records:
        clip = data.read(record, "audiovisual", (MIDDLE_FRAME,))
        assert clip.waveform is not None
        clips.append((as_int16(clip.waveform), clip.frames[0]))
    return tuple(clips)


def as_int16(waveform: NDArray[Any]) -> NDArray[np.int16]:
    """Floating-point sound in [-1, 1] at the full scale of 16 bits."""
    scaled = np.rint(waveform * np.float32(2**15)).clip(-(2**15), 2**15 - 1)
    return np.asarray(scaled, dtype=np.int16)


def own_clips(model: EngineModel, paths: Sequence[Path], most: int) -> list[RawClip]:
    """The user's own clips, spread evenly over those that an engine is proved on.

    Args:
        model: whose preprocessing says what is read of a clip.
        paths: media files, folders, manifests or shards.
        most: how many at most.

    Raises:
        DataError: a clip that cannot be read.
    """
    records = spread([record for path in paths for record in named_clips(path)], MOST_CLIPS)
    clips: list[RawClip] = []
    for record in spread(records, most):
        with clip_boundary(record.id):
            clip = reader_for(model.preprocessing)(record, models.modality_of(model), (MIDDLE_FRAME,))
            clips.append((clip.waveform, clip.frames[0] if len(clip.frames) else None))
    return clips


def _of_clips(
    model: EngineModel, whose: Literal["made", "yours"], clips: Sequence[RawClip], batch: BatchRange
) -> Iterator[Case]:
    """The clips in batches that the engine takes; frames of several sizes, which only raw inputs have, apart."""
    sizes: dict[tuple[tuple[int, ...], ...], list[Arrays]] = {}
    for sample in _prepared(model, clips):
        sizes.setdefault(tuple(array.shape for array in sample.values()), []).append(sample)
    name = f"{whose if whose == 'made' else 'your'} clips"
    for number, samples in enumerate(sizes.values(), start=1):
        yield _clip_case(model, name if len(sizes) == 1 else f"{name}, size {number}", whose, samples, batch)


def _clip_case(
    model: EngineModel, name: str, whose: Literal["made", "yours"], samples: list[Arrays], batch: BatchRange
) -> Case:
    """One case; its last clip is repeated where they do not fill the last batch."""
    reference = outputs_of(model, samples)
    size = max(batch.min, min(_affordable(model, batch.opt, batch), len(samples)))
    repeated = -len(samples) % size
    full = samples + samples[-1:] * repeated
    first, *more = (concatenated(full[start : start + size]) for start in range(0, len(full), size))
    return Case(name=name, inputs=first, more=more, reference=reference, repeated=repeated, clips=whose)


def _prepared(model: EngineModel, clips: Iterable[RawClip]) -> list[Arrays]:
    """The model's inputs, one sample each."""
    names = [spec.name for spec in model.inputs]
    return [
        feeding.from_clip(names, model.preprocessing, waveform, SAMPLE_RATE_HZ, None if frame is None else [frame])
        for waveform, frame in clips
    ]


def _samples_of(case: Case, count: int, seed: int) -> dict[str, NDArray[Any]]:
    """So many samples of a case, from that of this number on, and again from the first."""
    batches = (case.inputs, *case.more)
    places = [divmod((seed + number) % case.samples, case.batch) for number in range(count)]
    return concatenated(
        [{name: array[row : row + 1] for name, array in batches[batch].items()} for batch, row in places]
    )


def _case(model: EngineModel, name: str, inputs: Arrays) -> Case:
    return Case(name=name, inputs=inputs, reference=models.reference(model, inputs))
