"""Intervals: known values, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdcmae.evaluation.intervals import mean_average_precision_interval, share_interval
from kdcmae.evaluation.metrics import average_precision


@pytest.mark.parametrize(
    ("share", "clips", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 1, 0.2065, 1.0)]
)
def test_a_share_has_wilson_s_interval(share, clips, low, high):
    assert share_interval(share, clips) == pytest.approx((low, high), abs=1e-4)


def test_a_share_that_is_not_known_has_no_interval():
    assert all(map(math.isnan, share_interval(math.nan, 5)))


def labelled(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positives = rng.random((clips, 5)) < 0.2
    return (positives + rng.normal(size=positives.shape)).round(1), positives  # rounded: with ties


def test_the_interval_lies_around_the_measured_value_and_narrows_with_the_clips():
    widths = []
    for clips in (100, 1600):
        scores, positives = labelled(clips, seed=1)
        low, high = mean_average_precision_interval(scores, positives)
        measured = np.mean([average_precision(*column) for column in zip(scores.T, positives.T, strict=True)])
        assert (low + high) / 2 == pytest.approx(measured)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_as_wide_as_other_clips_would_move_it():
    others = []
    for seed in range(100):
        scores, positives = labelled(200, seed)
        others.append(np.mean([average_precision(*column) for column in zip(scores.T, positives.T, strict=True)]))
    low, high = mean_average_precision_interval(*labelled(200, seed=0))
    assert (high - low) / 2 == pytest.approx(1.96 * np.std(others), rel=0.3)


def test_classes_that_no_clip_has_do_not_count():
    scores, positives = labelled(50, seed=2)
    without = np.zeros((50, 1), dtype=bool)
    more = np.concatenate([scores, scores[:, :1]], axis=1), np.concatenate([positives, without], axis=1)
    assert mean_average_precision_interval(*more) == mean_average_precision_interval(scores, positives)
    assert all(map(math.isnan, mean_average_precision_interval(scores[:, :1], without)))
