"""Every order of streams, codec, extra stream and container, decoded by 1, 2 and 8 threads, beside plain ffmpeg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_grid import FRAMES, Case, cases, ffmpegs, make

from kdcmae.media.clip import read_clip, read_frames, read_waveform

GRID = pytest.mark.parametrize("case", list(cases()), ids=str)


@GRID
def test_reading_does_not_depend_on_threads(case: Case, tmp_path: Path) -> None:
    path = make(case, tmp_path / f"clip.{case.container}")
    clip = read_clip(path, threads=1)
    numbers = [i * FRAMES // 10 for i in range(10)]
    levels = [float(frame[8:-8, 8:-8].mean()) for frame in clip.frames]
    assert levels == pytest.approx([8 * number for number in numbers], abs=4)
    assert len(clip.waveform) == pytest.approx(16000 * FRAMES / 25, abs=1200)
    for threads in (2, 8):
        other = read_clip(path, threads=threads)
        np.testing.assert_array_equal(other.waveform, clip.waveform)
        np.testing.assert_array_equal(other.frames, clip.frames)
        part = read_clip(path, threads=threads, frame_numbers=(5,))
        np.testing.assert_array_equal(part.waveform, clip.waveform)
        np.testing.assert_array_equal(part.frames, clip.frames[[5]])
    np.testing.assert_array_equal(read_waveform(path, threads=8), clip.waveform)
    np.testing.assert_array_equal(read_frames(path, threads=8), clip.frames)


@GRID
def test_reading_gives_what_ffmpeg_gives(case: Case, tmp_path: Path) -> None:
    path = make(case, tmp_path / f"clip.{case.container}")
    sound, frames = ffmpegs(path)
    clip = read_clip(path, threads=1)
    if (case.container, case.audio) == ("mkv", "aac") and len(sound) != len(clip.waveform):
        # Releases of ffmpeg before PyAV's play the 1024 samples that prime the decoder of AAC in Matroska.
        assert len(sound) - len(clip.waveform) == 1024 * 16000 // 48000
    else:
        assert len(clip.waveform) == len(sound)
        assert np.abs(clip.waveform - sound / np.float32(32768)).max() < 1e-3
    expected = frames[[i * len(frames) // 10 for i in range(10)]]
    assert np.abs(clip.frames.astype(int) - expected).max() <= 2
