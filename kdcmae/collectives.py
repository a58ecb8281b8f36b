"""Collective operations of the losses; local without a process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "rank", "world_size"]


def world_size() -> int:
    """Processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of every rank, in rank order, with gradients back to the rank each row came from.

    Every rank must call this with the same number of rows.

    Args:
        rows: (B, ...) of this rank.

    Returns:
        (world size * B, ...); ``rows`` itself without a process group.

    A row's gradient is the sum over all ranks' losses. Averaged over ranks, as DistributedDataParallel does,
    parameters get the gradient of the mean of the ranks' losses: that of one process with the whole batch.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A sum and a slice rather than a reduce-scatter, which not every backend has; pooled latents are small.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]
