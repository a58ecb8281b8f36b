from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from kdcmae.errors import DataError
from kdcmae.media.clip import read_waveform
from kdcmae.media.resampling import Mono, resample


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


def sounding(path: Path, channels: np.ndarray, layout: str, rate: int = 44100, codec: str = "pcm_f32le") -> Path:
    """Float PCM, so that what is read is what was written, or another codec."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        packed = np.ascontiguousarray(channels.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 20000)).astype(np.float32)


@pytest.mark.parametrize("mono", ["mean", "left"])
def test_several_channels_become_their_mean_or_the_left_one(mono: Mono, tmp_path: Path) -> None:
    path = sounding(tmp_path / "a.mkv", NOISE[:2], "stereo")
    expected = resample(NOISE[:2], 44100, mono=mono)
    np.testing.assert_array_equal(read_waveform(path, mono=mono), expected)
    np.testing.assert_array_equal(read_waveform(path, mono=mono, seconds=0.2), expected[:3200])


@pytest.mark.parametrize("codec", ["pcm_f32le", "aac"])
@pytest.mark.parametrize("layout", ["quad", "5.1", "7.1"])
def test_surround_is_mixed_as_ffmpeg_mixes_it(layout: str, codec: str, tmp_path: Path) -> None:
    channels = NOISE[: av.AudioLayout(layout).nb_channels]
    path = sounding(tmp_path / "a.mkv", channels, layout, codec=codec)
    ffmpegs = av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(path) as container:
        frames = [part for frame in container.decode(audio=0) for part in ffmpegs.resample(frame)]
    expected = np.concatenate([part.to_ndarray()[0] for part in (*frames, *ffmpegs.resample(None))]) / 32768
    np.testing.assert_allclose(read_waveform(path), expected, atol=1 / 32768)
    if codec == "pcm_f32le":
        np.testing.assert_array_equal(read_waveform(path, mono="left"), resample(channels[0], 44100))


def test_samples_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    path = sounding(tmp_path / "a.mkv", np.where(NOISE[:1] > 0.49, np.float32(np.nan), NOISE[:1]), "mono")
    with pytest.raises(DataError, match=r"a\.mkv: waveform holds NaN or infinite samples"):
        read_waveform(path)
