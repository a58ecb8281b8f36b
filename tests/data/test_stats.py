from __future__ import annotations

import numpy as np
import pytest

from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import read_record
from kdcmae.data.stats import spectrogram_stats
from kdcmae.errors import DataError
from kdcmae.runtime.preprocessing import fbank


@pytest.mark.parametrize("audio_frames", [20, 64])
def test_statistics_are_those_of_what_a_model_gets(extracted, audio_frames: int) -> None:  # type: ignore[no-untyped-def]
    records = [*extracted(2), *extracted(3, seconds=0.3)[2:]]
    padded = np.zeros((3, audio_frames, 128))
    for own, record in zip(padded, records, strict=True):
        waveform = read_record(record, "audio", ()).waveform
        assert waveform is not None
        features = fbank(waveform)[:audio_frames]
        own[: len(features)] = features
    measured = spectrogram_stats(records, audio_frames=audio_frames)
    assert measured.mean == pytest.approx(padded.mean(), rel=1e-6)
    assert measured.std == pytest.approx(padded.std(), rel=1e-6)
    assert (measured.clips, measured.broken) == (3, {})


def test_processes_change_nothing(extracted) -> None:  # type: ignore[no-untyped-def]
    records, calls = extracted(3), []
    two = spectrogram_stats(records, processes=2, on_clip=lambda: calls.append(1))
    assert two == spectrogram_stats(records)
    assert len(calls) == 3


def test_a_few_broken_clips_are_left_out_and_many_stop(extracted) -> None:  # type: ignore[no-untyped-def]
    whole = extracted(1)[0]
    copies = [ClipRecord(id=f"copy{number}", wav=whole.wav) for number in range(100)]
    broken = ClipRecord(id="broken", wav=whole.wav.with_name("none.wav"))
    measured = spectrogram_stats([*copies, broken], audio_frames=16)
    assert measured.clips == 100
    assert measured.broken.keys() == {"broken"}
    assert measured.mean == pytest.approx(spectrogram_stats(copies, audio_frames=16).mean)
    with pytest.raises(DataError, match="1 of 51 clips cannot be used"):
        spectrogram_stats([*copies[:50], broken])
