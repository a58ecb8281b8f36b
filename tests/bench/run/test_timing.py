"""Statistics on a synthetic clock: nothing here depends on how fast the machine is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.bench.run.timing import (
    BETWEEN_MOMENTS,
    BETWEEN_RUNS,
    Schedule,
    SpeedRatio,
    plan_rounds,
    run_ratio,
    settled,
    speed_ratio,
    summarize,
    verdict,
)


@pytest.mark.parametrize(
    ("seconds", "slowest_call_s", "rounds", "window_s"),
    [(10, 0.001, 20, 0.5), (10, 0.8, 12, 10 / 12), (10, 8, 10, 1), (1, 0.001, 10, 0.1), (60, 0.001, 120, 0.5)],
)
def test_rounds_are_many_and_short_unless_calls_are_slow(seconds, slowest_call_s, rounds, window_s):
    assert plan_rounds(seconds, slowest_call_s) == Schedule(
        rounds=rounds, most_rounds=rounds + rounds // 2, window_s=window_s
    )


def test_percentiles_are_over_single_calls():
    latency = summarize([list(range(1, 51)), list(range(51, 102))])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (51, 91, 100)
    assert latency.mean_ms == 51
    assert latency.count == 101
    assert latency.coefficient_of_variation == pytest.approx(np.std(range(1, 102), ddof=1) / 51)


def test_the_median_s_interval_is_what_windows_and_runs_differ_by():
    still = summarize([[10.0, 10.0, 16.0]] * 12)
    assert (still.p50_ms, still.low_ms, still.high_ms) == (10, pytest.approx(9.6), pytest.approx(10.4))
    uneven = summarize([[10.0 + shift] * 3 for shift in (-1, 0, 1) * 4])
    assert 8.9 < uneven.low_ms < 9.4
    assert 10.6 < uneven.high_ms < 11.1


def test_windows_of_one_moment_tell_less_of_another_run():
    spread, moment = (summarize([[10.0]] * 6, between_runs=share) for share in (BETWEEN_RUNS, BETWEEN_MOMENTS))
    assert (spread.low_ms, spread.high_ms) == (pytest.approx(9.6), pytest.approx(10.4))
    assert (moment.low_ms, moment.high_ms) == (pytest.approx(9.25), pytest.approx(10.75))
    assert spread.stable
    assert moment.stable


def test_two_runs_are_set_against_each_other_with_what_runs_differ_by():
    assert run_ratio([12.0] * 3, [10.0] * 5, confidence=0.95) == (
        *(pytest.approx(1.2), pytest.approx(1.2 * 0.96), pytest.approx(1.2 * 1.04)),
    )
    windows = 10 * np.random.default_rng(0).lognormal(0, 0.02, 12)
    _, low, high = run_ratio(windows, windows, confidence=0.9)
    _, lower, higher = run_ratio(windows, windows, confidence=0.99)
    assert lower < low < 0.96 < 1.04 < high < higher


def test_variation_is_over_the_medians_of_windows():
    latency = summarize([[1, 10, 100], [1, 12, 1000]])
    assert latency.window_medians_ms == (10, 12)
    assert latency.window_variation == pytest.approx(np.sqrt(2) / 11)
    assert not latency.stable


def test_spread_inside_windows_does_not_make_them_unstable():
    latency = summarize([[1, 10, 100]] * 5)
    assert latency.window_variation == 0
    assert latency.coefficient_of_variation > 1
    assert latency.stable


@pytest.mark.parametrize(("variation", "windows", "stable"), [(0.02, 10, True), (0.06, 10, False), (0.06, 60, True)])
def test_stable_means_a_median_that_the_windows_tell_well(variation, windows, stable):
    medians = [[100 * (1 + sign * variation)] for sign in (-1, 1) * (windows // 2)]
    assert summarize(medians).stable is stable
    assert summarize(medians, between_runs=0.5).stable is stable
    assert settled(medians) is stable


def test_windows_that_do_not_count_are_only_counted():
    latency = summarize([[100.0], [102.0]], left_out=2)
    assert latency.window_medians_ms == (100, 102)
    assert (latency.count, latency.windows_left_out) == (2, 2)


def test_a_constant_ratio_has_no_interval():
    speed = speed_ratio([10, 20, 40], [5, 10, 20])
    assert speed == SpeedRatio(ratio=pytest.approx(2), low=pytest.approx(2), high=pytest.approx(2))


def test_drift_that_hits_both_cancels_out_of_the_ratio():
    drift = np.linspace(1, 3, 12)
    speed = speed_ratio(12 * drift, 10 * drift)
    assert (speed.low, speed.high) == (pytest.approx(1.2), pytest.approx(1.2))


def test_the_interval_is_reproducible():
    rng = np.random.default_rng(1)
    reference, subject = rng.normal(100, 2, (2, 20))
    assert speed_ratio(reference, subject) == speed_ratio(reference, subject)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=2, max_size=20))
def test_the_ratio_is_inside_its_interval_and_inverts(pairs):
    reference, subject = zip(*pairs, strict=True)
    speed = speed_ratio(reference, subject, resamples=200)
    assert speed.low <= speed.high
    assert min(r / s for r, s in pairs) * 0.999 <= speed.low
    assert speed.high <= max(r / s for r, s in pairs) * 1.001
    assert speed_ratio(subject, reference, resamples=200).ratio == pytest.approx(1 / speed.ratio)


def test_equal_subjects_are_rarely_called_different_and_a_slow_one_always_is():
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(100):
        reference, equal = 50 * rng.lognormal(0, 0.01, (2, 20))
        claims += verdict(speed_ratio(reference, equal, resamples=500), stable=True) != "no difference"
        slow = 55 * rng.lognormal(0, 0.01, 20)
        assert verdict(speed_ratio(reference, slow, resamples=500), stable=True) == "slower"
    assert claims <= 15  # 5 expected at 95 %


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1.01, 1.2, "faster"), (0.8, 0.99, "slower"), (0.99, 1.01, "no difference"), (1.0, 1.2, "no difference")],
)
def test_a_winner_needs_an_interval_on_one_side_of_one(low, high, expected):
    speed = SpeedRatio(ratio=(low + high) / 2, low=low, high=high)
    assert verdict(speed, stable=True) == expected
    assert verdict(speed, stable=False) == "unstable"
