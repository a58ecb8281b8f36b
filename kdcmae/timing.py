"""How calls are timed."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["time_window"]

_RUN_IN_S = 0.15  # not timed: caches, threads and clock come back after another's turn
_LONG_CALL_S = 0.25  # calls from here on do that by themselves


def time_window(
    call: Callable[[], object], seconds: float, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Time single calls, back to back, for one window.

    The first calls are not timed: they bring caches, threads and clock back after another's turn. A first call that is
    long is no different from the others, and counts.

    Args:
        call: what to time.
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
