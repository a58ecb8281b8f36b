"""Mean and standard deviation of the spectrogram over a data set, which normalise a model's audio input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kdcmae.data.broken import BrokenClipError, BrokenClips, clip_boundary
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.parallel import map_in_processes
from kdcmae.data.reading import read_record
from kdcmae.media.resampling import Mono
from kdcmae.runtime.preprocessing import FRAME_LENGTH, FRAME_SHIFT, MEL_BINS, SAMPLE_RATE_HZ, fbank

__all__ = ["SpectrogramStats", "spectrogram_stats"]


@dataclass(frozen=True, kw_only=True)
class SpectrogramStats:
    """Statistics of log-mel values.

    Args:
        mean, std: over every value of every clip, padding included: ``fbank_mean`` and ``fbank_std`` of the
            preprocessing.
        clips: number of clips measured.
        broken: the reason for each clip that could not be read, by its id.
    """

    mean: float
    std: float
    clips: int
    broken: dict[str, str]


def spectrogram_stats(
    records: Sequence[ClipRecord],
    *,
    audio_frames: int = 1024,
    mono: Mono = "mean",
    processes: int = 1,
    on_clip: Callable[[], object] = lambda: None,
) -> SpectrogramStats:
    """Measure the clips' spectrograms as they enter a model before normalisation: padded with zeros or cut.

    Args:
        records: of the clips; use those the model trains on.
        audio_frames: of the model.
        mono: how the model's preprocessing makes one channel of several.
        on_clip: called after each clip.

    Raises:
        DataError: more than 1 % of the clips cannot be read.

    Source: the published script averages the statistics of batches instead; its mean is the same, and its standard
        deviation a little smaller.
    """
    broken = BrokenClips(len(records))
    total = squares = 0.0
    sums = map_in_processes(partial(_sums, audio_frames, mono), records, processes=processes)
    for record, outcome in zip(records, sums, strict=True):
        if isinstance(outcome, str):
            broken.add([(record.id, outcome)])
        else:
            total, squares = total + outcome[0], squares + outcome[1]
        on_clip()
    clips = len(records) - len(broken)
    values = clips * audio_frames * MEL_BINS
    mean = total / values
    return SpectrogramStats(mean=mean, std=math.sqrt(squares / values - mean**2), clips=clips, broken=broken.reasons)


def _sums(audio_frames: int, mono: Mono, record: ClipRecord) -> tuple[float, float] | str:
    """The sum of a clip's log-mel values and of their squares, or why it has none."""
    samples = FRAME_LENGTH + FRAME_SHIFT * (audio_frames - 1)
    try:
        with clip_boundary(record.id):
            waveform = read_record(record, "audio", (), seconds=samples / SAMPLE_RATE_HZ, mono=mono).waveform
            assert waveform is not None
            features = fbank(waveform[:samples])
    except BrokenClipError as error:
        return error.reason
    return float(features.sum(dtype=np.float64)), float(np.square(features, dtype=np.float64).sum())
