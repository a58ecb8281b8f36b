"""Measure how fast a loader makes batches, and its memory, to choose the number of workers."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdcmae.data.loader import ClipLoader
from kdcmae.host import peak_rss_bytes

__all__ = ["LoaderSpeed", "measure_speed"]


@dataclass(frozen=True, kw_only=True)
class LoaderSpeed:
    """What was measured.

    Args:
        clips_per_s: throughput after the first batch.
        clips: number of clips counted.
        seconds: duration of the measurement.
        start_s: time until the first batch, including the start of the workers.
        peak_rss_mb: of this process, including PyTorch; None if the system does not report it.
        worker_peak_rss_mb: of the largest worker, including memory shared with this process; 0 without workers.
    """

    clips_per_s: float
    clips: int
    seconds: float
    start_s: float
    peak_rss_mb: float | None
    worker_peak_rss_mb: float | None


def measure_speed(loader: ClipLoader, *, seconds: float) -> LoaderSpeed:
    """Draw batches for some time and discard them.

    Args:
        seconds: to measure for, at least one batch.

    Raises:
        DataError: too many clips are broken.
    """
    batches = _endless(loader)
    called = time.perf_counter()
    next(batches)
    start = time.perf_counter()
    clips, passed = 0, 0.0
    while passed < seconds or clips == 0:
        clips += len(next(batches)["index"])
        passed = time.perf_counter() - start
    peak = peak_rss_bytes()
    return LoaderSpeed(
        clips_per_s=clips / passed,
        clips=clips,
        seconds=passed,
        start_s=start - called,
        peak_rss_mb=None if peak is None else peak / 1e6,
        worker_peak_rss_mb=_largest_child_mb(),
    )


def _endless(loader: ClipLoader) -> Iterator[dict[str, Tensor]]:
    for epoch in itertools.count():
        yield from loader.batches(epoch)


def _largest_child_mb() -> float | None:
    """The largest resident memory that a process started by this one ever had."""
    peaks = [0.0]
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/status")
        if not status.is_file():
            return None
        peaks += [int(line.split()[1]) * 1024 / 1e6 for line in status.read_text().splitlines() if "VmHWM:" in line]
    return max(peaks)
