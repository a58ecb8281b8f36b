"""Attention over packed queries, keys and values in plain PyTorch: the definition the kernels are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attend_runs", "attention", "attention_ragged", "runs_of"]


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Multi-head self-attention over sequences of one length, softmax scale ``head_size ** -0.5``.

    Args:
        qkv: (B, L, 3*D), what ``nn.Linear(D, 3*D)`` gives: queries, keys, values, heads outermost in each.
        num_heads: the number of heads H; divides D.

    Returns:
        (B, L, D) in the dtype of ``qkv``, heads concatenated.
    """
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if _trains_in_half_precision_on_cpu(qkv):
        attended = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).flatten(2)


def _trains_in_half_precision_on_cpu(qkv: Tensor) -> bool:
    """Where PyTorch's fused attention, and its own plain one, take several times as long backward as three products."""
    return qkv.device.type == "cpu" and qkv.dtype in (torch.bfloat16, torch.float16) and qkv.requires_grad


def attention_ragged(qkv: Tensor, lengths: Sequence[int], num_heads: int) -> Tensor:
    """Multi-head self-attention over sequences of several lengths packed one after another.

    Args:
        qkv: (T, 3*D), the sequences end to end.
        lengths: the length of each sequence, known on the host; they sum to T.
        num_heads: the number of heads H; divides D.

    Returns:
        (T, D) in the dtype of ``qkv``, in the order of the rows of ``qkv``.
    """
    return attend_runs(qkv, lengths, lambda run: attention(run, num_heads))


def attend_runs(qkv: Tensor, lengths: Sequence[int], attend: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``attend``, (B, L, 3*D) to (B, L, D), to each run of packed sequences of equal length."""
    runs = runs_of(lengths)
    pieces = qkv.split([length * count for length, count in runs])
    return torch.cat(
        [
            attend(piece.unflatten(0, (count, length))).flatten(0, 1)
            for piece, (length, count) in zip(pieces, runs, strict=True)
        ]
    )


def runs_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Length and count of each run of neighbours of equal length."""
    return [(length, len(list(run))) for length, run in groupby(lengths)]
