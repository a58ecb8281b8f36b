"""How long an engine takes, measured right after its build: a first answer, not a benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kdcmae.compile.parity import Arrays

__all__ = ["measure_latency"]

_SECONDS = 0.5
_FEWEST = 3


def measure_latency(infer: Callable[[Arrays], Any], inputs: Arrays) -> dict[str, float]:
    """Run one batch again and again for half a second, at least three times, after one run that does not count.

    Args:
        infer: runs one batch.
        inputs: by name, the batch first.

    Returns:
        ``batch``, ``runs``, and ``median_ms`` and ``p90_ms`` of one batch.
    """
    infer(inputs)
    took: list[float] = []
    while len(took) < _FEWEST or sum(took) < _SECONDS:
        start = time.perf_counter()
        infer(inputs)
        took.append(time.perf_counter() - start)
    median, p90 = 1e3 * np.percentile(took, (50, 90))
    batch = len(next(iter(inputs.values())))
    return {"batch": batch, "runs": len(took), "median_ms": float(median), "p90_ms": float(p90)}
