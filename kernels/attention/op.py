"""Attention by Triton, registered with PyTorch: fake tensors, autograd, ``torch.compile``.

Sequences of any mixture of lengths lie in one buffer, described by runs: ``[length, count, length, count, ...]``.
Runs that share a row of the device's table share a launch. Lengths the table leaves to the vendor, and dtypes and
head sizes without a kernel, go to :mod:`kdcmae.kernels.attention.reference`, which is PyTorch's own attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from kdcmae.errors import ConfigError
from kdcmae.kernels.attention import reference
from kdcmae.kernels.attention.launches import HEAD_SIZES, Direction, Tiling, launches, tiling, vendor_length

__all__ = ["attention", "attention_backward", "attention_forward", "attention_ragged"]


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """:func:`kdcmae.kernels.attention.reference.attention`, by the kernel the device's table names."""
    batch, length, _ = qkv.shape
    if not _serves(qkv, length, num_heads):
        return reference.attention(qkv, num_heads)
    return attention_forward(qkv.flatten(0, 1), [length, batch], num_heads)[0].unflatten(0, (batch, length))


def attention_ragged(qkv: Tensor, lengths: Sequence[int], num_heads: int) -> Tensor:
    """:func:`kdcmae.kernels.attention.reference.attention_ragged`, by the kernels the device's table names."""
    if not _serves(qkv, max(lengths), num_heads):
        return reference.attend_runs(qkv, lengths, lambda run: attention(run, num_heads))
    runs = [number for run in reference.runs_of(lengths) for number in run]
    return attention_forward(qkv, runs, num_heads)[0]


def _serves(qkv: Tensor, length: int, num_heads: int) -> bool:
    """Whether these kernels, and not the vendor's, attend over ``length`` rows."""
    head_size = qkv.shape[-1] // (3 * num_heads)
    return head_size in HEAD_SIZES and length < _vendor_length(qkv.device, qkv.dtype)


@torch.compiler.assume_constant_result
def _vendor_length(device: torch.device, dtype: torch.dtype) -> int:
    return vendor_length(device, dtype)


@torch.library.custom_op("kdcmae::attention_forward", mutates_args=())
def attention_forward(qkv: Tensor, runs: Sequence[int], num_heads: int) -> tuple[Tensor, Tensor]:
    """Attention over packed sequences.

    Args:
        qkv: (T, 3*D), the sequences end to end.
        runs: length and count of each run of sequences, alternating; they cover the T rows.
        num_heads: divides D.

    Returns:
        (T, D) in the dtype of ``qkv``, and the log-sum-exp of the scaled scores, base 2, (num_heads, T) float32,
        through which no gradient flows.

    Raises:
        ConfigError: ``runs`` do not cover T, or the device's table has no row for a length, dtype or head size.
    """
    qkv = qkv.contiguous()
    out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
    lse = qkv.new_empty(num_heads, len(qkv), dtype=torch.float32)
    _run("forward", runs, num_heads, (qkv, out, lse))
    return out, lse


@torch.library.custom_op("kdcmae::attention_backward", mutates_args=())
def attention_backward(
    qkv: Tensor, out: Tensor, lse: Tensor, grad: Tensor, runs: Sequence[int], num_heads: int
) -> Tensor:
    """Gradient of packed qkv, (T, 3*D), from the gradient of ``out``; the rest as given to and by the forward."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    dqkv = torch.empty_like(qkv)
    _run("backward", runs, num_heads, (qkv, out, lse, grad, dqkv))
    return dqkv


@attention_forward.register_fake
def _(qkv: Tensor, runs: Sequence[int], num_heads: int) -> tuple[Tensor, Tensor]:
    tokens, width = qkv.shape
    return qkv.new_empty(tokens, width // 3), qkv.new_empty(num_heads, tokens, dtype=torch.float32)


@attention_backward.register_fake
def _(qkv: Tensor, out: Tensor, lse: Tensor, grad: Tensor, runs: Sequence[int], num_heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[int], int], output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.runs, ctx.num_heads = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None, None]:
    return attention_backward(*ctx.saved_tensors, grad, ctx.runs, ctx.num_heads), None, None


attention_forward.register_autograd(_differentiate, setup_context=_keep)


@dataclass(frozen=True)
class _Run:
    """``count`` sequences of ``length`` rows from row ``first``."""

    first: int
    length: int
    count: int


def _run(direction: Direction, runs: Sequence[int], num_heads: int, tensors: tuple[Tensor, ...]) -> None:
    """Launch every kernel of a pass on the tensors it takes; all start with qkv."""
    qkv = tensors[0]
    total, width = qkv.shape
    upcast = triton.knobs.runtime.interpret and qkv.dtype == torch.bfloat16
    with torch.cuda.device_of(qkv):
        for row, members in _group(direction, qkv, runs, width // (3 * num_heads)).items():
            longest = max(run.length for run in members)
            ragged = len(members) > 1
            spans = _spans(tuple(members) if ragged else (), qkv.device)
            grid_rows = num_heads * sum(run.count for run in members)
            for launch in launches(direction, row, longest):
                launch.kernel[grid_rows, launch.blocks](
                    *tensors,
                    spans,
                    int(ragged),
                    members[0].first,
                    longest,
                    total,
                    num_heads,
                    **launch.constants,
                    UPCAST=upcast,
                    num_warps=row.num_warps,
                    num_stages=row.num_stages,
                    maxnreg=row.max_registers,
                )


def _group(direction: Direction, qkv: Tensor, runs: Sequence[int], head_size: int) -> dict[Tiling, list[_Run]]:
    """The runs that share a launch, by the row of the table that serves them."""
    groups: dict[Tiling, list[_Run]] = {}
    first = 0
    for length, count in zip(runs[::2], runs[1::2], strict=True):
        row = tiling(direction, qkv.device, qkv.dtype, head_size, length)
        groups.setdefault(row, []).append(_Run(first, length, count))
        first += length * count
    if first != len(qkv):
        raise ConfigError(f"runs {list(runs)} cover {first} rows, but qkv has {len(qkv)}; give every sequence's length")
    return groups


@lru_cache(maxsize=64)
def _spans(runs: tuple[_Run, ...], device: torch.device) -> Tensor:
    """First row and length of every sequence, (sequences, 2) int32; kept, for a training step repeats its shapes."""
    spans = [(run.first + index * run.length, run.length) for run in runs for index in range(run.count)]
    return torch.tensor(spans or [(0, 0)], dtype=torch.int32).to(device)
