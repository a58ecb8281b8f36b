from __future__ import annotations

import numpy as np

from kdcmae.compile import latency
from kdcmae.compile.latency import measure_latency


def test_the_median_of_a_window_stands_beside_its_batch(monkeypatch):
    calls = []

    def window(call, seconds):
        call()
        assert seconds > 0
        return [100.0, 100.0, 200.0, 200.0]

    monkeypatch.setattr(latency, "time_window", window)
    found = measure_latency(calls.append, {"audio": np.zeros((2, 4))})
    assert [inputs.keys() for inputs in calls] == [{"audio"}]
    assert found == {"batch": 2, "runs": 4, "median_ms": 150.0, "p90_ms": 200.0}


def test_an_engine_is_timed():
    found = measure_latency(lambda inputs: inputs["audio"].sum(), {"audio": np.zeros((1, 4))})
    assert 0 < found["median_ms"] <= found["p90_ms"]
