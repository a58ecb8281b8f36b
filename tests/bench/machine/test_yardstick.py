"""The yardstick: known work in a process of its own, and what its readings say of the rounds between them."""

from __future__ import annotations

import pytest

from kdcmae.bench.machine.yardstick import apart, open_yardstick, steady_rounds


def test_it_reads_what_known_work_takes():
    with open_yardstick(1) as read:
        assert 0.05 < read() < 1000


@pytest.mark.parametrize(("one", "other", "two_states"), [(1.0, 1.05, False), (1.07, 1.0, True), (2.0, 2.0, False)])
def test_readings_far_apart_tell_of_two_states(one, other, two_states):
    assert apart(one, other) is two_states
    assert apart(other, one) is two_states


@pytest.mark.parametrize(
    ("readings", "steady"),
    [
        ([1.0, 1.02, 0.99, 1.01], [0, 1, 2]),
        ([1.0, 1.0, 1.5, 1.0, 1.0], [0, 3]),
        ([1.5, 1.5, 1.5, 1.0, 1.0, 1.0], [3, 4]),  # the fast state is found late
        ([1.5, 1.5, 1.5, 1.0, 1.0], [0, 1]),  # it does not last, the slow one does
        ([1.0], []),
    ],
)
def test_rounds_count_between_two_readings_of_one_state(readings, steady):
    assert steady_rounds(readings, enough=2) == steady
