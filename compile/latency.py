"""How long an engine takes, measured right after its build: a first answer, not a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kdcmae.compile.parity import Arrays
from kdcmae.timing import time_window

__all__ = ["measure_latency"]

_SECONDS = 0.3


def measure_latency(infer: Callable[[Arrays], Any], inputs: Arrays) -> dict[str, float]:
    """Run one batch again and again for one short window.

    Args:
        infer: runs one batch.
        inputs: by name, the batch first.

    Returns:
        ``batch``, ``runs``, and ``median_ms`` and ``p90_ms`` of one batch.
    """
    took_ms = time_window(partial(infer, inputs), _SECONDS)
    median, p90 = np.percentile(took_ms, (50, 90))
    batch = len(next(iter(inputs.values())))
    return {"batch": batch, "runs": len(took_ms), "median_ms": float(median), "p90_ms": float(p90)}
