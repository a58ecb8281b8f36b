"""How single calls are timed, and the statistics over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["CallStatistics", "call_statistics", "time_window"]

_RUN_IN_S = 0.15  # not timed: caches, threads and clock come back after another's turn
_LONG_CALL_S = 0.25  # calls from here on do that by themselves


def time_window(
    call: Callable[[], object], seconds: float, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Time single calls, back to back, for one window.

    The first calls are not timed: they bring caches, threads and clock back after another's turn. A first call that is
    long is no different from the others, and counts.

    Args:
        seconds: length of the window; the call that crosses its end is the last, so there is at least one.
        clock: gives seconds.

    Returns:
        The latency of each call in ms.
    """
    latencies_ms: list[float] = []
    begin = start = clock()
    call()
    end = clock()
    if end - begin >= _LONG_CALL_S:
        latencies_ms.append((end - begin) * 1e3)
    else:
        while end - begin < min(_RUN_IN_S, seconds):
            call()
            end = clock()
        start = end
    while not latencies_ms or end - start < seconds:
        begin = clock()
        call()
        end = clock()
        latencies_ms.append((end - begin) * 1e3)
    return latencies_ms


@dataclass(frozen=True, kw_only=True)
class CallStatistics:
    """What single calls took.

    Args:
        count: timed calls.
        p50_ms, p90_ms, p99_ms: percentiles, interpolated between calls.
        mean_ms: arithmetic mean.
        coefficient_of_variation: standard deviation over mean; 0 for a single call.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    coefficient_of_variation: float


def call_statistics(latencies_ms: Sequence[float] | np.ndarray) -> CallStatistics:
    """Statistics of single calls.

    Args:
        latencies_ms: one per call; at least one.
    """
    calls = np.asarray(latencies_ms, dtype=np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(calls, (50, 90, 99)))
    mean = float(calls.mean())
    return CallStatistics(
        count=len(calls),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean,
        coefficient_of_variation=float(calls.std(ddof=1)) / mean if len(calls) > 1 else 0.0,
    )
