from __future__ import annotations

import numpy as np
import pytest

from kdcmae.data.avsynth.classes import SOUNDS
from kdcmae.data.avsynth.sound import Performance, drive, envelope, tone

TIME_S = np.arange(32000) / 16000


def played(sound: str, **change: float) -> Performance:
    return Performance(sound=sound, **{"pitch_hz": 400.0, "onset_s": 0.25, "tempo": 1.0, **change})


def heard(performance: Performance) -> np.ndarray:
    return tone(performance, TIME_S, np.random.default_rng(0))


def peak_hz(part: np.ndarray) -> float:
    """The lowest strong frequency, which in these timbres is the pitch."""
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16000))
    return float(np.flatnonzero(spectrum > 0.5 * spectrum.max())[0])


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_are_silent_before_they_start_and_between_notes(name: str) -> None:
    performance = played(name)
    waveform, loudness = heard(performance), envelope(performance, TIME_S)
    assert np.abs(waveform).max() <= 1
    assert np.abs(waveform).max() > 0.6
    assert not waveform[TIME_S < 0.25].any()
    assert not waveform[loudness == 0].any()
    assert loudness.max() == 1
    share = (loudness[TIME_S >= 0.25] > 0.5).mean()
    assert share == pytest.approx(SOUNDS[name].duty, abs=0.12)


def test_pitch_contours() -> None:
    note = slice(4000 + 400, 4000 + 6000)  # the first of the notes of 0.5 s, which sounds for 0.4 s
    start, end = slice(note.start, note.start + 800), slice(note.stop - 800, note.stop)
    rising, falling = heard(played("rising")), heard(played("falling"))
    assert peak_hz(rising[end]) > 1.4 * peak_hz(rising[start])
    assert peak_hz(falling[start]) > 1.4 * peak_hz(falling[end])
    humming = heard(played("humming"))
    assert peak_hz(humming[start]) == pytest.approx(peak_hz(humming[end]), abs=20)
    assert peak_hz(humming[8000:16000]) == pytest.approx(400, abs=5)
    course = drive(played("warbling"), TIME_S[4000:20000])
    assert (np.diff(np.sign(course)) != 0).sum() == pytest.approx(12, abs=1)  # 6 Hz for one second


def test_timbres() -> None:
    def level(waveform: np.ndarray, harmonic: int) -> float:
        spectrum = np.abs(np.fft.rfft(waveform[8000:16000] * np.hanning(8000), 16000))
        return float(spectrum[400 * harmonic - 20 : 400 * harmonic + 20].max() / spectrum.max())

    hollow = heard(played("humming"))
    assert level(hollow, 3) > 0.2
    assert level(hollow, 2) < 0.01
    noise = np.abs(np.fft.rfft(heard(played("hissing"))))
    centre_hz = (noise**2 * np.fft.rfftfreq(32000, 1 / 16000)).sum() / (noise**2).sum()
    assert centre_hz == pytest.approx(1600, rel=0.1)
    assert np.sort(noise)[-50:].min() > 0.3 * noise.max()  # a band, not a line


def test_no_harmonic_folds_back() -> None:
    waveform = heard(played("rising", pitch_hz=1500.0))
    spectrum = np.abs(np.fft.rfft(waveform[4400:9600] * np.hanning(5200)))
    assert spectrum[round(7300 * 5200 / 16000) :].max() < 0.02 * spectrum.max()


def test_tempo_makes_notes_shorter() -> None:
    def notes(tempo: float) -> int:
        return int((np.diff((envelope(played("beating", tempo=tempo), TIME_S) > 0.5).astype(int)) == 1).sum())

    assert notes(1.15) > notes(0.85)


@pytest.mark.parametrize("name", SOUNDS)
def test_motion_stays_in_its_range_and_starts_with_the_sound(name: str) -> None:
    course = drive(played(name), TIME_S)
    assert np.abs(course).max() <= 1
    assert course.max() - course.min() > 1
    assert not course[TIME_S < 0.25].any()
