"""Clips in a benchmark: AVSynth's test clips for accuracy and agreement, one video file for clip to label."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.run.inputs import avsynth_clips, prepared
from kdcmae.bench.run.subjects import Subject
from kdcmae.errors import ConfigError
from kdcmae.media.clip import read_clip
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.runtime.batching import in_batches
from kdcmae.runtime.feeding import from_clip, sources
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["answers", "stages", "write_clips"]

_MOST_ROWS = 16  # at once, where a subject takes any number
_FEWEST_TRIPS = 3


def write_clips(folder: Path, *, clips: int) -> tuple[Path, tuple[str, ...]]:
    """Write AVSynth's first test clips for :func:`answers`.

    Args:
        folder: where the file is stored; an existing file of this version is used.
        clips: how many.

    Returns:
        An ``.npz`` file, and the label of each clip.
    """
    from kdcmae.data.avsynth.scene import AVSYNTH_VERSION

    raw, labels = avsynth_clips(clips)
    path = folder / f"avsynth-{AVSYNTH_VERSION}-test-{clips}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            waveforms=np.stack([clip.waveform for clip in raw if clip.waveform is not None]),
            frames=np.stack([clip.frames[0] for clip in raw]),
        )
    return path, labels


def answers(subject: Subject, data: Path) -> NDArray[np.float32]:
    """The subject's first output for every clip of a file.

    Returns:
        (clips, classes).

    Raises:
        ConfigError: it takes inputs of its own, or hides its outputs.
    """
    facts = subject.facts
    with np.load(data) as arrays:
        clips = [(sound, [frame]) for sound, frame in zip(arrays["waveforms"], arrays["frames"], strict=True)]
    inputs = prepared([spec.name for spec in facts.inputs], _preprocessing(subject), clips)
    sizes = (1, _MOST_ROWS) if facts.batch is None else (facts.batch.min, facts.batch.max)
    return next(iter(in_batches(subject.run, inputs, sizes).values()))


def stages(subject: Subject, clip: Path, seconds: float) -> Mapping[str, list[float]]:
    """Durations of the stages from a video file to the outputs.

    Args:
        subject: takes what a clip becomes.
        clip: any video file.
        seconds: how long to go on; the first trip does not count.

    Returns:
        Latencies in ms by stage: ``decode``; ``fbank`` and ``frame``, or ``waveform`` and ``frame`` where the subject
        computes those itself; ``infer``.
    """
    names, preprocessing = [spec.name for spec in subject.facts.inputs], _preprocessing(subject)
    audio_inputs = [name for name in names if sources([name]) == {"waveform"}]
    image_inputs = [name for name in names if sources([name]) == {"frame"}]
    sound = "fbank" if "audio" in audio_inputs else "waveform"
    spent: dict[str, list[float]] = {}
    start = time.perf_counter()
    trips = 0
    while trips <= _FEWEST_TRIPS or time.perf_counter() - start < seconds:
        marks = [time.perf_counter()]
        decoded = read_clip(
            clip, seconds=preprocessing.window_s, mono=preprocessing.mono, frame_numbers=(MIDDLE_FRAME,)
        )
        marks.append(time.perf_counter())
        feed = from_clip(audio_inputs, preprocessing, decoded.waveform, decoded.sample_rate_hz, None)
        marks.append(time.perf_counter())
        feed |= from_clip(image_inputs, preprocessing, None, 0, list(decoded.frames)) if image_inputs else {}
        marks.append(time.perf_counter())
        fewest = subject.facts.batch.min if subject.facts.batch else 1
        subject.run({name: np.repeat(array, fewest, axis=0) for name, array in feed.items()})
        marks.append(time.perf_counter())
        if trips:
            for name, begin, end in zip(("decode", sound, "frame", "infer"), marks, marks[1:], strict=False):
                spent.setdefault(name, []).append((end - begin) * 1e3)
        trips += 1
    return spent


def _preprocessing(subject: Subject) -> Preprocessing:
    if subject.facts.preprocessing is None:
        raise ConfigError(f"{subject.facts.kind} makes up its own inputs and hides its outputs")
    return subject.facts.preprocessing
