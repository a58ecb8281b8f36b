"""What subjects are timed on: clips, as apps feed them, wherever the preprocessing is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.run.subjects import Facts
from kdcmae.runtime import feeding
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ, Preprocessing

if TYPE_CHECKING:
    from kdcmae.data.reading import RawClip

__all__ = ["avsynth_clips", "made_inputs", "prepared"]


def made_inputs(facts: Facts, batch: int, *, seed: int) -> dict[str, NDArray[Any]]:
    """Inputs for one call; the same for all subjects that take the same.

    Noise would do for timing, but int8 engines are calibrated on clips and cut off what clips do not have, so that
    their outputs for noise say nothing.

    Args:
        facts: of the subject.
        batch: samples.
        seed: of the clips, or of the noise for a subject whose preprocessing is unknown.
    """
    names = [spec.name for spec in facts.inputs]
    if facts.preprocessing is None or not set(names) <= {"audio", "image", *feeding.RAW}:
        return example_inputs(facts.inputs, batch, seed=seed)
    clips, _ = avsynth_clips(batch, seed=seed)
    return prepared(names, facts.preprocessing, ((clip.waveform, clip.frames) for clip in clips))


def avsynth_clips(clips: int, *, seed: int = 0) -> tuple[list[RawClip], tuple[str, ...]]:
    """AVSynth's first test clips, with sound and middle frame, undecoded by any codec; and the label of each."""
    from kdcmae.data.avsynth.memory import AVSynth
    from kdcmae.media.frame_numbers import MIDDLE_FRAME

    data = AVSynth("test", clips=clips, seed=seed)
    raw = [data.read(record, "audiovisual", [MIDDLE_FRAME]) for record in data.records]
    return raw, tuple(record.labels[0] for record in data.records)


def prepared(
    names: Sequence[str],
    preprocessing: Preprocessing,
    clips: Iterable[tuple[NDArray[np.float32] | None, Sequence[NDArray[np.uint8]] | None]],
) -> dict[str, NDArray[Any]]:
    """Inputs of a model, a row per clip.

    Args:
        names: of the inputs.
        preprocessing: of the model.
        clips: waveform at 16 kHz and one frame of each; None for a part that the model does without.
    """
    rows = [feeding.from_clip(names, preprocessing, sound, SAMPLE_RATE_HZ, frames) for sound, frames in clips]
    return {name: np.concatenate([row[name] for row in rows]) for name in names}
