from __future__ import annotations

import numpy as np

from kdcmae.compile import latency
from kdcmae.compile.latency import measure_latency


def test_runs_last_half_a_second_and_the_first_does_not_count(monkeypatch):
    took = iter([9.0, 0.1, 0.1, 0.2, 0.2])
    clock = [0.0]

    def infer(inputs):
        clock[0] += next(took)

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    found = measure_latency(infer, {"audio": np.zeros((2, 4))})
    assert (found["batch"], found["runs"]) == (2, 4)
    np.testing.assert_allclose((found["median_ms"], found["p90_ms"]), (150, 200))


def test_a_slow_engine_runs_three_times(monkeypatch):
    clock = [0.0]

    def infer(inputs):
        clock[0] += 5.0

    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    assert measure_latency(infer, {"audio": np.zeros((1, 4))})["runs"] == 3
