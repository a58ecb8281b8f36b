"""How long an engine takes, measured at its build: a first answer, not a benchmark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from kdcmae.runtime.arrays import Arrays
from kdcmae.timing import call_statistics, time_window

__all__ = ["compare_latency", "describe_speed", "measure_latency"]

_SECONDS = 0.3

# Two engines in turns: windows this long until that much time is over, and at least so many turns.
_WINDOW_S, _COMPARED_S, _TURNS = 0.1, 1.5, 3


def measure_latency(infer: Callable[[Arrays], Any], inputs: Arrays) -> dict[str, float]:
    """Run one batch again and again for one short window.

    Args:
        inputs: by name, the batch first.

    Returns:
        ``batch``, ``runs``, ``median_ms`` and ``p90_ms`` of one batch, and ``load``: processes that wanted a CPU in the
        minute before, where the system says.
    """
    load = _load()
    calls = call_statistics(time_window(partial(infer, inputs), _SECONDS))
    batch = len(next(iter(inputs.values())))
    return {"batch": batch, "runs": calls.count, "median_ms": calls.p50_ms, "p90_ms": calls.p90_ms, **load}


def _load() -> dict[str, float]:
    try:
        return {"load": os.getloadavg()[0]}
    except (AttributeError, OSError):  # Windows, and sandboxes without /proc
        return {}


def compare_latency(
    run: Callable[[], Any],
    other: Callable[[], Any],
    *,
    against: str,
    window: Callable[[Callable[[], Any], float], list[float]] = time_window,
) -> dict[str, Any]:
    """Time two engines in turns, so that other load on the machine affects both.

    Args:
        run, other: one batch each.
        against: what the other executes in.
        window: times calls, as :func:`kdcmae.timing.time_window` does.

    Returns:
        ``against``; ``median_ms`` and ``against_ms``; ``speed``: how many times as fast the first is, the median over
        the turns, half of which lie between ``speed_low`` and ``speed_high``.
    """
    turns: list[tuple[float, float]] = []
    end = time.perf_counter() + _COMPARED_S
    while len(turns) < _TURNS or time.perf_counter() < end:
        first_ms, second_ms = (float(np.median(window(call, _WINDOW_S))) for call in (run, other))
        turns.append((first_ms, second_ms))
    speeds = [second_ms / first_ms for first_ms, second_ms in turns]
    median_ms, against_ms = (float(np.median(column)) for column in zip(*turns, strict=True))
    low, speed, high = (float(value) for value in np.percentile(speeds, (25, 50, 75)))
    return {
        "against": against,
        "median_ms": median_ms,
        "against_ms": against_ms,
        "speed": speed,
        "speed_low": low,
        "speed_high": high,
    }


def describe_speed(precision: str, speed: Mapping[str, Any]) -> str:
    """One sentence on what :func:`compare_latency` measured."""
    times = f"{speed['speed']:.2f} times as fast ({speed['speed_low']:.2f}-{speed['speed_high']:.2f})"
    measured = f"{speed['median_ms']:.3g} ms against {speed['against_ms']:.3g}, in turns"
    if speed["speed_low"] > 1:
        return f"{precision} is {times} as {speed['against']} on this machine: {measured}"
    faster = "not clearly faster" if speed["speed_high"] > 1 else "not faster"
    return (
        f"{precision} is {faster} than {speed['against']} on this machine but {times}: {measured}; it saves memory, "
        f"and --precision {speed['against']} rounds less"
    )
