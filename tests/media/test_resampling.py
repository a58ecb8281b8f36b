from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae.errors import DataError
from kdcmae.media.resampling import Resampler, resample

RATES_HZ = (8000, 11025, 22050, 44100, 48000, 96000)


def sine(frequency_hz: float, sample_rate_hz: int, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return np.sin(2 * np.pi * frequency_hz * time + 0.3).astype(np.float32)


def middle(waveform: np.ndarray) -> np.ndarray:
    """Without the ends, where the filter sees the waveform mirrored."""
    edge = len(waveform) // 8
    return waveform[edge:-edge]


def level_db(waveform: np.ndarray) -> float:
    """Of a sine, in dB below full scale."""
    return float(20 * np.log10(middle(waveform).std() * np.sqrt(2)))


@pytest.mark.parametrize("sample_rate_hz", RATES_HZ)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_a_sine_keeps_amplitude_frequency_and_phase(sample_rate_hz: int, share: float) -> None:
    frequency_hz = share * min(sample_rate_hz, 16000) / 2
    resampled = resample(sine(frequency_hz, sample_rate_hz), sample_rate_hz)
    np.testing.assert_allclose(middle(resampled), middle(sine(frequency_hz, 16000)), atol=1.2e-3)


@pytest.mark.parametrize("sample_rate_hz", [22050, 44100, 48000, 96000])
@pytest.mark.parametrize(("frequency_hz", "expected_db"), [(6500, 0), (7000, -0.4), (7500, -2.9), (8500, -26)])
def test_the_filter_rolls_off_where_the_docstring_says(
    sample_rate_hz: int, frequency_hz: float, expected_db: float
) -> None:
    resampled = resample(sine(frequency_hz, sample_rate_hz), sample_rate_hz)
    assert level_db(resampled) == pytest.approx(expected_db, abs=0.3 if expected_db > -10 else 1)


@pytest.mark.parametrize("sample_rate_hz", [22050, 44100, 48000, 96000])
@pytest.mark.parametrize("frequency_hz", [9100, 9500, 10900])
def test_content_beyond_the_filter_is_removed(sample_rate_hz: int, frequency_hz: float) -> None:
    assert level_db(resample(sine(frequency_hz, sample_rate_hz), sample_rate_hz)) < -60


def test_upsampling_leaves_no_image() -> None:
    resampled = resample(sine(3000, 8000, seconds=2), 8000)
    spectrum = np.abs(np.fft.rfft(middle(resampled) * np.blackman(len(middle(resampled)))))
    frequencies_hz = np.fft.rfftfreq(len(middle(resampled)), 1 / 16000)
    assert spectrum[frequencies_hz > 3100].max() < 1e-3 * spectrum.max()


@pytest.mark.parametrize("sample_rate_hz", [*RATES_HZ, 44101, 32000, 192000])
def test_ffmpeg_gives_the_same_samples_and_as_many(sample_rate_hz: int) -> None:
    av = pytest.importorskip("av")  # machines that only run engines do without
    rng = np.random.default_rng(sample_rate_hz)
    for samples in rng.integers(300, 5000, 6):
        waveform = rng.uniform(-0.5, 0.5, samples).astype(np.float32)
        ffmpegs = av.AudioResampler(format="flt", layout="mono", rate=16000)
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate = sample_rate_hz
        expected = np.concatenate(
            [part.to_ndarray()[0] for part in (*ffmpegs.resample(frame), *ffmpegs.resample(None))]
        )
        # Of more than 1024 phases ffmpeg interpolates some; the others differ by rounding.
        atol = 3e-6 if sample_rate_hz == 44101 else 5e-7
        np.testing.assert_allclose(resample(waveform, sample_rate_hz), expected, atol=atol)


@given(sample_rate_hz=st.integers(1000, 200_000), samples=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_any_rate_gives_the_right_length(sample_rate_hz: int, samples: int) -> None:
    resampled = resample(np.full(samples, 0.5, np.float32), sample_rate_hz)
    most = -(-samples * 16000 // sample_rate_hz)
    # Shorter than the filter, ffmpeg's way of ending leaves out more; 25 ms is the least a model hears.
    assert most - 1 <= len(resampled) <= most or samples < 100 * max(1, sample_rate_hz // 16000)
    assert len(resampled) >= 1
    assert resampled.dtype == np.float32
    assert np.abs(resampled).max() < 0.6


@pytest.mark.parametrize("sample_rate_hz", [*RATES_HZ, 12347, 192000])
def test_a_constant_stays_constant(sample_rate_hz: int) -> None:
    # To the edges, because beyond them the waveform is mirrored; ffmpeg's phases differ by 1e-5 when upsampling.
    np.testing.assert_allclose(resample(np.full(sample_rate_hz // 4, 0.5, np.float32), sample_rate_hz), 0.5, atol=1e-5)


@pytest.mark.parametrize("sample_rate_hz", [*RATES_HZ, 16000, 12347])
def test_pieces_change_no_bit(sample_rate_hz: int) -> None:
    rng = np.random.default_rng(sample_rate_hz)
    waveform = rng.uniform(-0.5, 0.5, sample_rate_hz // 2).astype(np.float32)
    whole = resample(waveform, sample_rate_hz)
    for most in (40, 1024, 20000):
        resampler, parts, start = Resampler(sample_rate_hz), [], 0
        while start < len(waveform):
            size = int(rng.integers(0, most))
            parts.append(resampler.push(waveform[start : start + size]))
            start += size
        np.testing.assert_array_equal(np.concatenate([*parts, resampler.finish()]), whole)


@pytest.mark.parametrize("sample_rate_hz", [*RATES_HZ, 16000, 12347])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_start_alone_is_the_start_of_the_whole(sample_rate_hz: int, channels: int) -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, sample_rate_hz // 2)).astype(np.float32)
    whole = resample(waveform, sample_rate_hz)
    for samples in (0, 1, 400, len(whole) - 40, len(whole), len(whole) + 100):
        np.testing.assert_array_equal(resample(waveform, sample_rate_hz, samples=samples), whole[:samples])


def test_the_start_alone_costs_no_more_than_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[int] = []
    push = Resampler.push

    def counted(self: Resampler, samples: np.ndarray) -> np.ndarray:
        pushed.append(len(samples))
        return push(self, samples)

    monkeypatch.setattr(Resampler, "push", counted)
    resample(np.zeros((2, 44100 * 60), np.float32), 44100, samples=2 * 16000)
    assert sum(pushed) < 2.01 * 44100


def test_16_khz_passes_through() -> None:
    waveform = sine(440, 16000)
    np.testing.assert_array_equal(resample(waveform, 16000), waveform)


def test_channels_are_averaged() -> None:
    left, right = sine(300, 48000), sine(900, 48000)
    np.testing.assert_allclose(resample(np.stack([left, right]), 48000), resample((left + right) / 2, 48000), atol=1e-6)


def test_the_left_channel_may_stand_for_all() -> None:
    channels = np.stack([sine(300, 48000), sine(900, 48000)])
    for waveform in (channels, (channels * 32767).astype(np.int16)):
        left = resample(waveform, 48000, mono="left")
        np.testing.assert_array_equal(left, resample(waveform[0], 48000))


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
