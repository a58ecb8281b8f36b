"""What a device does at most: the ceilings that achieved rates are set against."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdcmae.bench.kernels.schema import Ceilings
from kdcmae.bench.machine.clock import PLAIN_WARM, Clock

__all__ = ["CeilingSizes", "measure_ceilings"]


@dataclass(frozen=True, kw_only=True)
class CeilingSizes:
    """What is copied, and the side of the square matrices."""

    copy_bytes: int
    matmul_side: int


def measure_ceilings(
    device: torch.device, clock: Clock, dtype: torch.dtype, sizes: CeilingSizes, *, seconds: float
) -> Ceilings:
    """Measure copy bandwidth, matrix products in ``dtype`` and the timer itself.

    Args:
        device: to measure.
        clock: of that device.
        dtype: of the matrix products.
        sizes: large enough to leave the cache and to fill the device.
        seconds: for each of the three.
    """

    def median_us(call: Callable[[], object]) -> float:
        return statistics.median(clock.prepare(call, PLAIN_WARM)(seconds))

    with clock.running():
        source = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=device).random_()
        target = torch.empty_like(source)
        copy_us = median_us(lambda: target.copy_(source))
        side = sizes.matmul_side
        # Random numbers: products of zeros draw less power and run faster.
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        matmul_us = median_us(lambda: torch.mm(left, right, out=out))
        timer_us = median_us(lambda: None)
    return Ceilings(
        copy_bytes_per_s=1e6 * 2 * sizes.copy_bytes / copy_us,
        matmul_flop_per_s=1e6 * 2 * side**3 / matmul_us,
        matmul_dtype=str(dtype).removeprefix("torch."),
        timer_floor_us=timer_us,
    )
