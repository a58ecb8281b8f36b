"""Attention forward in Triton: keys and values resident on chip, or streamed past a block of queries.

Both write the output and the log-sum-exp (base 2, of the scaled scores) that the backward pass needs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kdcmae.kernels.attention.tiles import FREE_INTS, LOG2_E, dot, load_tile, locate, store_tile

__all__ = ["forward_resident", "forward_streaming"]


@triton.jit
def _scores(q, k, first_key, length, scale, KEYS: tl.constexpr, UPCAST: tl.constexpr):
    """Scaled scores in base 2, [queries, KEYS]; minus infinity for keys past the end."""
    scores = dot(q, tl.trans(k), UPCAST) * scale
    return tl.where(first_key + tl.arange(0, KEYS)[None, :] < length, scores, float("-inf"))


@triton.jit
def _store_lse(lse, values, row, length, ROWS: tl.constexpr):
    rows = row + tl.arange(0, ROWS)
    tl.store(lse + rows, values, mask=rows < length)


@triton.jit(do_not_specialize=FREE_INTS)
def forward_resident(
    qkv,
    out,
    lse,
    spans,
    ragged,
    first,
    length,
    total,
    num_heads,
    HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    MORE_ROWS: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One program per sequence and head: all keys in two tiles (ROWS, MORE_ROWS or 0), one-pass softmax."""
    head, start, length = locate(spans, ragged, first, length, num_heads)
    width = num_heads * HEAD
    q_base = qkv + start * 3 * width + head * HEAD
    out_base = out + start * width + head * HEAD
    lse_base = lse + head.to(tl.int64) * total + start
    scale = LOG2_E * HEAD**-0.5
    k = load_tile(q_base + width, 0, length, 3 * width, ROWS, HEAD)
    v = load_tile(q_base + 2 * width, 0, length, 3 * width, ROWS, HEAD)
    if MORE_ROWS > 0:
        more_k = load_tile(q_base + width, ROWS, length, 3 * width, MORE_ROWS, HEAD)
        more_v = load_tile(q_base + 2 * width, ROWS, length, 3 * width, MORE_ROWS, HEAD)
    for step in range(STEPS):
        row = step * STEP
        q = load_tile(q_base, row, length, 3 * width, STEP, HEAD)
        scores = _scores(q, k, 0, length, scale, ROWS, UPCAST)
        largest = tl.max(scores, 1)
        if MORE_ROWS > 0:
            more_scores = _scores(q, more_k, ROWS, length, scale, MORE_ROWS, UPCAST)
            largest = tl.maximum(largest, tl.max(more_scores, 1))
        weights = tl.exp2(scores - largest[:, None])
        total_weight = tl.sum(weights, 1)
        context = dot(weights.to(v.dtype), v, UPCAST)
        if MORE_ROWS > 0:
            more_weights = tl.exp2(more_scores - largest[:, None])
            total_weight += tl.sum(more_weights, 1)
            context += dot(more_weights.to(v.dtype), more_v, UPCAST)
        context = context / total_weight[:, None]
        store_tile(out_base, context, row, length, width, STEP, HEAD)
        _store_lse(lse_base, largest + tl.log2(total_weight), row, length, STEP)


@triton.jit(do_not_specialize=FREE_INTS)
def forward_streaming(
    qkv,
    out,
    lse,
    spans,
    ragged,
    first,
    length,
    total,
    num_heads,
    HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """One program per sequence, head and block of queries: keys stream past, softmax rescaled as they come.

    Source: Milakov and Gimelshein 2018 (online normaliser), Dao 2023 (FlashAttention-2, algorithm 1).
    """
    head, start, length = locate(spans, ragged, first, length, num_heads)
    row = tl.program_id(1) * ROWS
    width = num_heads * HEAD
    q_base = qkv + start * 3 * width + head * HEAD
    scale = LOG2_E * HEAD**-0.5
    q = load_tile(q_base, row, length, 3 * width, ROWS, HEAD)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total_weight = tl.zeros((ROWS,), tl.float32)
    context = tl.zeros((ROWS, HEAD), tl.float32)
    for step in range(STEPS):
        k = load_tile(q_base + width, step * STEP, length, 3 * width, STEP, HEAD)
        v = load_tile(q_base + 2 * width, step * STEP, length, 3 * width, STEP, HEAD)
        scores = _scores(q, k, step * STEP, length, scale, STEP, UPCAST)
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - new_largest[:, None])
        decay = tl.exp2(largest - new_largest)
        total_weight = total_weight * decay + tl.sum(weights, 1)
        context = context * decay[:, None] + dot(weights.to(v.dtype), v, UPCAST)
        largest = new_largest
    out_base = out + start * width + head * HEAD
    store_tile(out_base, context / total_weight[:, None], row, length, width, ROWS, HEAD)
    lse_base = lse + head.to(tl.int64) * total + start
    _store_lse(lse_base, largest + tl.log2(total_weight), row, length, ROWS)
