"""Augmentation as published: SpecAugment, noise and time roll on the spectrogram, and mixup of two clips.

Every function takes its random generator, so that a sample depends only on its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from kdcmae.errors import ConfigError
from kdcmae.runtime.arrays import Float32

__all__ = ["Augmentation", "add_noise", "mix_waveforms", "roll_time", "spec_augment"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training clips are varied; zero turns a part off.

    Args:
        frequency_mask (mel bands): largest width of the masked band; the published finetuning has 48.
        time_mask (frames of 10 ms): largest width of the masked span; the published finetuning has 192.
        noise: largest amplitude of the noise added to the normalised spectrogram.
        roll (share of the length): largest shift along time.
        mixup_rate (share of clips): that are mixed with another; the published finetuning has 0.5.
        mixup_alpha: the mixing weight is drawn from Beta(alpha, alpha).

    Raises:
        ConfigError: a value out of range.
    """

    frequency_mask: int = 0
    time_mask: int = 0
    noise: float = 0.1
    roll: float = 1.0
    mixup_rate: float = 0.0
    mixup_alpha: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (field.name in ("roll", "mixup_rate") and value > 1):
                raise ConfigError(f"augmentation {field.name}={value} is out of range")
        if self.mixup_alpha == 0:
            raise ConfigError("augmentation mixup_alpha=0 must be positive; set mixup_rate=0 for no mixup")

    def vary(self, features: Float32, rng: np.random.Generator, *, silence: float) -> Float32:
        """Mask, add noise and roll.

        Args:
            features: (T, 128) normalised.
            silence: value of masked features: that of padding.
        """
        masked = spec_augment(
            features, rng, frequency_mask=self.frequency_mask, time_mask=self.time_mask, value=silence
        )
        noisy = add_noise(masked, rng, amplitude=self.noise)
        return roll_time(noisy, rng, largest=round(self.roll * len(noisy)))

    def mixing_weight(self, rng: np.random.Generator) -> float | None:
        """The mixing weight of a clip, or None if it is not mixed."""
        chosen = rng.random() < self.mixup_rate
        return float(rng.beta(self.mixup_alpha, self.mixup_alpha)) if chosen else None


def spec_augment(
    features: Float32, rng: np.random.Generator, *, frequency_mask: int, time_mask: int, value: float
) -> Float32:
    """One masked band of frequencies and one masked span of time.

    Args:
        features: (T, F).
        frequency_mask, time_mask: widths are drawn below these.
        value: of masked features.

    Source: Park et al., SpecAugment, 2019, with one mask per axis and no warping; widths and starts are drawn as
        in torchaudio, which the published code uses.
    """
    masked = features.copy()
    for axis, widest in ((1, frequency_mask), (0, time_mask)):
        size = masked.shape[axis]
        width = rng.random() * min(widest, size)
        start = int(rng.random() * (size - width))
        masked[(slice(None),) * axis + (slice(start, start + int(width)),)] = value
    return masked


def add_noise(features: Float32, rng: np.random.Generator, *, amplitude: float) -> Float32:
    """Add U[0, 1) * u to every value, u ~ U[0, amplitude) once. Source: the published data loader."""
    level = np.float32(rng.random() * amplitude)
    return features + level * rng.random(features.shape, dtype=np.float32)


def roll_time(features: Float32, rng: np.random.Generator, *, largest: int) -> Float32:
    """Shift along time by up to ``largest`` frames either way; frames that leave one end enter at the other."""
    return np.roll(features, int(rng.integers(-largest, largest + 1)), axis=0)


def mix_waveforms(waveform: Float32, other: Float32, weight: float) -> Float32:
    """``weight * waveform + (1 - weight) * other``, the other padded with silence or cut to the first.

    Args:
        waveform: (S,); the result has its length.
        other: (R,).
        weight: of ``waveform``.
    """
    mixed = np.float32(weight) * waveform
    shared = min(len(waveform), len(other))
    mixed[:shared] += np.float32(1 - weight) * other[:shared]
    return mixed
