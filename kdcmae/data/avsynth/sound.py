"""Sounds: the waveform of a performance, and the curve that moves its object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcmae.data.avsynth.classes import SOUNDS, Sound
from kdcmae.runtime.arrays import Float64

__all__ = ["Performance", "drive", "envelope", "tone"]


_EDGE_S = 0.02  # fade in and out of a note, so that it does not click
_RANGE_OCTAVES = {"rising": 0.4, "falling": 0.4, "vibrato": 0.15, "steady": 0.0}  # up and down from the pitch
_VIBRATO_HZ = 6.0
_HIGHEST_HARMONIC_HZ = 7000.0
_HARMONICS = {"bright": (1, 2, 3, 4, 5, 6, 7, 8), "hollow": (1, 3, 5, 7), "soft": (1, 2)}
_NOISE_OCTAVES_UP, _NOISE_WIDTH = 2.0, 0.15  # the band of noise: its centre above the pitch, its width over the centre


@dataclass(frozen=True, kw_only=True)
class Performance:
    """One performance of a sound.

    Args:
        sound: a key of :data:`~kdcmae.data.avsynth.classes.SOUNDS`.
        pitch_hz: middle of its pitch range.
        onset_s: when the first note starts.
        tempo: factor on the rhythm.
    """

    sound: str
    pitch_hz: float
    onset_s: float
    tempo: float

    @property
    def kind(self) -> Sound:
        return SOUNDS[self.sound]


def tone(performance: Performance, time_s: Float64, rng: np.random.Generator) -> Float64:
    """The waveform of a performance.

    Args:
        time_s: (S,) evenly spaced from 0.
        rng: for the noise of a noisy sound.

    Returns:
        (S,) in [-1, 1], full scale while a note sounds.
    """
    step_s = time_s[1] - time_s[0]
    if performance.kind.timbre == "noise":
        wave = _band_of_noise(len(time_s), step_s, performance.pitch_hz * 2**_NOISE_OCTAVES_UP, rng)
    else:
        octaves = _RANGE_OCTAVES[performance.kind.contour] * _course(performance, time_s)
        pitch_hz = performance.pitch_hz * 2**octaves
        wave = _harmonics(2 * np.pi * np.cumsum(pitch_hz) * step_s, pitch_hz, _HARMONICS[performance.kind.timbre])
    return wave * envelope(performance, time_s) / np.abs(wave).max()


def envelope(performance: Performance, time_s: Float64) -> Float64:
    """How loud a performance is: from 0 to 1."""
    in_note, note_s = _in_note(performance, time_s)
    rise = np.clip(in_note * note_s / _EDGE_S, 0, 1)
    fall = np.clip((performance.kind.duty - in_note) * note_s / _EDGE_S, 0, 1)
    return np.where(time_s < performance.onset_s, 0.0, rise * fall)


def drive(performance: Performance, time_s: Float64) -> Float64:
    """The curve that moves the object, from -1 to 1: the pitch, or the notes if it is steady; 0 before the first."""
    if performance.kind.contour == "steady":
        course = 2 * envelope(performance, time_s) - 1
    else:
        course = _course(performance, time_s)
    return np.where(time_s < performance.onset_s, 0.0, course)


def _in_note(performance: Performance, time_s: Float64) -> tuple[Float64, float]:
    """How far each moment is into its note, from 0 to 1, and the length of a note."""
    note_s = 1 / (performance.kind.notes_per_s * performance.tempo)
    return ((time_s - performance.onset_s) / note_s) % 1.0, note_s


def _course(performance: Performance, time_s: Float64) -> Float64:
    """The pitch over time, from -1 to 1 in the range of its contour."""
    if performance.kind.contour == "vibrato":
        return np.sin(2 * np.pi * _VIBRATO_HZ * performance.tempo * (time_s - performance.onset_s))
    slope = {"rising": 1.0, "falling": -1.0, "steady": 0.0}[performance.kind.contour]
    return slope * (2 * _in_note(performance, time_s)[0] - 1)


def _harmonics(phase: Float64, pitch_hz: Float64, numbers: tuple[int, ...]) -> Float64:
    """Sum of sin(k * phase) / k, by the recurrence sin(k x) = 2 cos(x) sin((k-1) x) - sin((k-2) x)."""
    cosine2, before, current = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    wave = np.zeros_like(phase)
    for number in range(1, max(numbers) + 1):
        if number in numbers:
            wave += np.where(number * pitch_hz < _HIGHEST_HARMONIC_HZ, current / number, 0.0)
        before, current = current, cosine2 * current - before
    return wave


def _band_of_noise(samples: int, step_s: float, centre_hz: float, rng: np.random.Generator) -> Float64:
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    distance = (np.fft.rfftfreq(samples, step_s) - centre_hz) / (_NOISE_WIDTH * centre_hz)
    return np.fft.irfft(spectrum * np.exp(-0.5 * distance**2), samples)
