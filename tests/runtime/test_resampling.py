from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae.errors import DataError
from kdcmae.runtime.resampling import resample

RATES_HZ = (8000, 11025, 22050, 44100, 48000, 96000)


def sine(frequency_hz: float, sample_rate_hz: int, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return np.sin(2 * np.pi * frequency_hz * time + 0.3).astype(np.float32)


def middle(waveform: np.ndarray) -> np.ndarray:
    """Without the ends, where the filter sees the silence around the waveform."""
    edge = len(waveform) // 8
    return waveform[edge:-edge]


@pytest.mark.parametrize("sample_rate_hz", RATES_HZ)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.88])
def test_a_sine_keeps_amplitude_frequency_and_phase(sample_rate_hz: int, share: float) -> None:
    frequency_hz = share * min(sample_rate_hz, 16000) / 2
    resampled = resample(sine(frequency_hz, sample_rate_hz), sample_rate_hz)
    np.testing.assert_allclose(middle(resampled), middle(sine(frequency_hz, 16000)), atol=1.2e-3)


@pytest.mark.parametrize("sample_rate_hz", [22050, 44100, 48000, 96000])
@pytest.mark.parametrize("beyond", [1.0, 1.05, 1.35])
def test_content_above_nyquist_is_removed(sample_rate_hz: int, beyond: float) -> None:
    resampled = resample(sine(beyond * 8000, sample_rate_hz), sample_rate_hz)
    assert np.abs(middle(resampled)).max() < 1e-3  # 60 dB down


def test_upsampling_leaves_no_image() -> None:
    resampled = resample(sine(3000, 8000, seconds=2), 8000)
    spectrum = np.abs(np.fft.rfft(middle(resampled) * np.blackman(len(middle(resampled)))))
    frequencies_hz = np.fft.rfftfreq(len(middle(resampled)), 1 / 16000)
    assert spectrum[frequencies_hz > 3100].max() < 1e-3 * spectrum.max()


@given(sample_rate_hz=st.integers(1000, 200_000), samples=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_any_rate_gives_the_right_length(sample_rate_hz: int, samples: int) -> None:
    resampled = resample(np.full(samples, 0.5, np.float32), sample_rate_hz)
    assert len(resampled) == -(-samples * 16000 // sample_rate_hz)
    assert resampled.dtype == np.float32
    assert np.abs(resampled).max() < 1.0  # ringing at the ends, but nothing that grows


@pytest.mark.parametrize("sample_rate_hz", [*RATES_HZ, 12347, 192000])
def test_a_constant_stays_constant(sample_rate_hz: int) -> None:
    resampled = resample(np.full(sample_rate_hz // 4, 0.5, np.float32), sample_rate_hz)
    np.testing.assert_allclose(middle(resampled), 0.5, atol=1e-6)


def test_16_khz_passes_through() -> None:
    waveform = sine(440, 16000)
    np.testing.assert_array_equal(resample(waveform, 16000), waveform)


def test_channels_are_averaged() -> None:
    left, right = sine(300, 48000), sine(900, 48000)
    np.testing.assert_allclose(resample(np.stack([left, right]), 48000), resample((left + right) / 2, 48000), atol=1e-6)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "not empty"),
        (np.zeros((2, 0), np.float32), "not empty"),
        (np.zeros((1, 2, 3), np.float32), "must be"),
        (np.zeros((16000, 2), np.float32), "transpose it"),
        (np.array([0.0, np.nan], np.float32), "NaN or infinite"),
        (np.array([[0.0, np.inf], [0.0, -np.inf]], np.float32), "NaN or infinite"),
        (np.array([0.0, 12034.0], np.float32), "divide 16-bit samples by 32768"),
        (np.array([0.0, 1e300]), "must be in"),
        (np.zeros(10, np.uint16), "dtype uint16"),
        (np.zeros(10, np.complex64), "dtype complex64"),
        (np.array(["a"]), "dtype"),
    ],
)
def test_waveforms_that_make_no_sense_are_refused(waveform: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resample(waveform, 16000)


@pytest.mark.parametrize("sample_rate_hz", [0, -16000, 999, 10**7, 44100.0, "16000", None])
def test_sample_rates_that_make_no_sense_are_refused(sample_rate_hz: object) -> None:
    with pytest.raises(DataError, match="sample rate"):
        resample(np.zeros(100, np.float32), sample_rate_hz)  # type: ignore[arg-type]


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 2000)


@pytest.mark.parametrize(
    ("samples", "bits"),
    [
        ((NOISE * 2**15).astype(np.int32), 16),
        ((NOISE * 2**15).astype(np.int64), 16),
        ((NOISE * 2**23).astype(np.int32), 24),
        ((NOISE * 2**31).astype(np.int64), 32),
        (np.where(NOISE > 0, 16384, -16384).astype(np.int32), 16),
        (np.array([0, -(2**15)], np.int32).repeat(9), 16),
    ],
)
def test_narrow_samples_in_a_wide_type_are_refused(samples: np.ndarray, bits: int) -> None:
    with pytest.raises(DataError, match=rf"as samples of {bits} bits do: divide it by {2 ** (bits - 1)},"):
        resample(samples, 16000)


@pytest.mark.parametrize("level", [1.0, 1e-2, 1e-4])
def test_wide_samples_of_a_converter_of_24_bits_may_be_quiet(level: float) -> None:
    samples = np.round(NOISE * level * 2**23).astype(np.int32) * 256
    np.testing.assert_allclose(resample(samples, 16000), NOISE * level, atol=2e-7)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_silence_is_silence_in_every_type(dtype: type) -> None:
    assert not resample(np.zeros(100, dtype), 16000).any()
    assert abs(resample((NOISE * np.iinfo(dtype).max).astype(dtype), 16000) - NOISE).max() < 0.02
