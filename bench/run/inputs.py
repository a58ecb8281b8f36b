"""What subjects are timed on: clips, as apps feed them, wherever the preprocessing is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.run.subjects import Facts
from kdcmae.runtime import feeding
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

__all__ = ["made_inputs"]


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
    from kdcmae.data.avsynth.memory import AVSynth
    from kdcmae.media.frame_numbers import MIDDLE_FRAME

    data = AVSynth("test", clips=batch, seed=seed)
    clips = [data.read(record, "audiovisual", [MIDDLE_FRAME]) for record in data.records]
    rows = [feeding.from_clip(names, facts.preprocessing, clip.waveform, SAMPLE_RATE_HZ, clip.frames) for clip in clips]
    return {name: np.concatenate([row[name] for row in rows]) for name in names}
