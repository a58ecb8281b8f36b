from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.latency import compare_latency, describe_speed, measure_latency


def test_an_engine_is_timed_beside_its_batch():
    calls = []
    found = measure_latency(lambda inputs: calls.append(inputs["audio"].sum()), {"audio": np.zeros((2, 4))})
    assert 0 < found["median_ms"] <= found["p90_ms"]
    assert found["batch"] == 2
    assert 0 < found["runs"] <= len(calls)


def test_a_system_that_hides_its_load_times_an_engine_too(fails):
    fails("os.getloadavg", OSError("Load averages are unobtainable"))
    assert "load" not in measure_latency(lambda inputs: None, {"audio": np.zeros((2, 4))})


def test_two_engines_are_timed_in_turns(quick_builds):
    called, windows = [], iter([[4.0, 2.0, 3.0], [6.0], [2.0], [2.0], [1.0], [4.0]])

    def window(call, seconds):
        call()
        return next(windows)

    found = compare_latency(lambda: called.append("int8"), lambda: called.append("bf16"), against="bf16", window=window)
    assert called == ["int8", "bf16"] * 3
    assert found == {
        "against": "bf16", "median_ms": 2.0, "against_ms": 4.0, "speed": 2.0, "speed_low": 1.5, "speed_high": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (1.1, 1.3, "int8 is 1.20 times as fast (1.10-1.30) as bf16 on this machine: 2 ms against 2.4, in turns"),
        (0.9, 1.3, "int8 is not clearly faster than bf16 on this machine but 1.20 times as fast (0.90-1.30): 2 ms"),
        (0.8, 0.9, "int8 is not faster than bf16 on this machine but 1.20 times as fast (0.80-0.90): 2 ms"),
    ],
)
def test_int8_that_is_not_faster_is_said_to_be_so(low, high, says):
    speed = {"against": "bf16", "median_ms": 2.0, "against_ms": 2.4, "speed": 1.2, "speed_low": low, "speed_high": high}
    assert describe_speed("int8", speed).startswith(says)
    assert describe_speed("int8", speed).endswith("--precision bf16 rounds less") is (low < 1)
