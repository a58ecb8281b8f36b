from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.data.augment import Augmentation, add_noise, mix_waveforms, roll_time, spec_augment
from kdcmae.errors import ConfigError

FEATURES = np.random.default_rng(1).normal(size=(96, 32)).astype(np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(seed=st.integers(0, 10_000), band=st.integers(0, 40), span=st.integers(0, 120))
def test_masks_are_one_band_and_one_span(seed: int, band: int, span: int) -> None:
    masked = spec_augment(FEATURES, rng(seed), frequency_mask=band, time_mask=span, value=7.0)
    is_masked = masked == 7.0
    np.testing.assert_array_equal(masked[~is_masked], FEATURES[~is_masked])
    bins, frames = np.flatnonzero(is_masked.all(axis=0)), np.flatnonzero(is_masked.all(axis=1))
    for part, limit in ((bins, band), (frames, span)):
        assert len(part) <= limit
        assert len(part) == 0 or part[-1] - part[0] == len(part) - 1
    rest = is_masked.copy()
    if len(bins) < 32:
        rest[:, bins] = False
    if len(frames) < 96:
        rest[frames] = False
    assert not rest.any() or len(bins) == 32 or len(frames) == 96


def test_mask_widths_reach_from_none_to_the_limit() -> None:
    widths = [
        (spec_augment(FEATURES, rng(seed), frequency_mask=8, time_mask=0, value=7.0) == 7.0).all(axis=0).sum()
        for seed in range(200)
    ]
    assert set(widths) == set(range(8))


def test_noise_is_positive_and_below_its_amplitude() -> None:
    added = add_noise(FEATURES, rng(), amplitude=0.1) - FEATURES
    assert added.min() > -1e-6
    assert 0.001 < added.max() < 0.1
    assert add_noise(FEATURES, rng(), amplitude=0.1).dtype == np.float32
    np.testing.assert_array_equal(add_noise(FEATURES, rng(), amplitude=0.0), FEATURES)


def test_roll_moves_frames_and_loses_none() -> None:
    shifts = set()
    for seed in range(100):
        rolled = roll_time(FEATURES, rng(seed), largest=3)
        shift = next(s for s in range(-3, 4) if np.array_equal(np.roll(FEATURES, s, axis=0), rolled))
        shifts.add(shift)
    assert shifts == set(range(-3, 4))


def test_mixed_waveforms_have_the_length_of_the_first() -> None:
    ones = np.ones(4, np.float32)
    np.testing.assert_allclose(mix_waveforms(ones, 2 * np.ones(2, np.float32), 0.25), [1.75, 1.75, 0.25, 0.25])
    np.testing.assert_allclose(mix_waveforms(ones, 2 * np.ones(9, np.float32), 0.25), [1.75] * 4)


def test_variation_is_seeded_and_can_be_nothing() -> None:
    finetuning = Augmentation(frequency_mask=16, time_mask=32)
    a, b, c = (finetuning.vary(FEATURES, rng(seed), silence=1.0) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    np.testing.assert_array_equal(Augmentation(noise=0, roll=0).vary(FEATURES, rng(), silence=1.0), FEATURES)


def test_mixing_weights() -> None:
    mixup = Augmentation(mixup_rate=0.5, mixup_alpha=10)
    weights = [mixup.mixing_weight(rng(seed)) for seed in range(400)]
    drawn = np.array([weight for weight in weights if weight is not None])
    assert 160 < len(drawn) < 240
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.std() == pytest.approx(np.sqrt(0.25 / 21), abs=0.02)  # of Beta(10, 10)
    assert Augmentation().mixing_weight(rng()) is None


@pytest.mark.parametrize("setting", [{"noise": -1.0}, {"roll": 1.5}, {"mixup_rate": 2.0}, {"mixup_alpha": 0.0}])
def test_settings_out_of_range(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Augmentation(**setting)  # type: ignore[arg-type]
