from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.clip import read_waveform


def many_channels(path: Path, channels: int, width: int = 2) -> np.ndarray:
    """A WAV file of noise at 16 kHz, without a word on where its channels are placed; returns their mean."""
    samples = np.random.default_rng(channels).integers(-8000, 8000, (4000, channels))
    if width == 1:
        content = (samples // 256 + 128).astype(np.uint8)
        samples = (content.astype(int) - 128) * 256
    else:
        content = (samples << (8 * (width - 2))).astype(f"<i{width}")
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, 16000, 0, "NONE", ""))
        file.writeframes(content.tobytes())
    return samples.mean(axis=1) / 32768


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("channels", [9, 17, 33])
def test_channels_that_nobody_placed_are_averaged(channels: int, width: int, tmp_path: Path) -> None:
    expected = many_channels(tmp_path / "array.wav", channels, width)
    waveform = read_waveform(tmp_path / "array.wav")
    assert len(waveform) == 4000
    np.testing.assert_allclose(waveform, expected, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.1234])
def test_only_the_start_is_kept(seconds: float, tmp_path: Path) -> None:
    many_channels(tmp_path / "array.wav", 9)
    whole = read_waveform(tmp_path / "array.wav")
    start = read_waveform(tmp_path / "array.wav", seconds=seconds)
    assert len(start) == int(np.ceil(16000 * seconds))
    np.testing.assert_array_equal(start, whole[: len(start)])
