"""Calls on a synthetic clock: nothing here depends on how fast the machine is."""

from __future__ import annotations

import pytest

from kdcmae.timing import call_statistics, time_window


class Clock:
    """Stands still except while a call runs."""

    def __init__(self, *durations_s: float) -> None:
        self.now = 100.0
        self.calls = 0
        self._durations_s = durations_s

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += self._durations_s[self.calls % len(self._durations_s)]
        self.calls += 1


def test_a_window_times_no_call_of_its_run_in():
    clock = Clock(0.06, 0.06, 0.06, 0.06, 0.3)
    assert time_window(clock.work, 0.3, clock=clock) == pytest.approx([60.0, 300.0])
    assert time_window(clock.work, 0.04, clock=clock) == pytest.approx([60.0])  # a short window has a short one


def test_a_window_times_every_call_but_the_first():
    clock = Clock(0.2, 0.25, 0.5)
    assert time_window(clock.work, 0.7, clock=clock) == [250.0, 500.0]
    assert clock.calls == 3


def test_a_long_first_call_counts():
    clock = Clock(0.5, 0.25)
    assert time_window(clock.work, 0.7, clock=clock) == [500.0, 250.0]


@pytest.mark.parametrize(("duration_s", "calls"), [(2.0, 1), (0.125, 2)])
def test_a_window_has_at_least_one_call(duration_s, calls):
    clock = Clock(duration_s)
    assert time_window(clock.work, 0.0, clock=clock) == [duration_s * 1e3]
    assert clock.calls == calls


def test_statistics_are_over_single_calls():
    calls = call_statistics([*range(1, 102)])
    assert (calls.count, calls.p50_ms, calls.p90_ms, calls.p99_ms, calls.mean_ms) == (101, 51, 91, 100, 51)
    assert calls.coefficient_of_variation == pytest.approx(0.5745, rel=1e-3)
    assert call_statistics([3.0]).coefficient_of_variation == 0
