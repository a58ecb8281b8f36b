"""Attention backward in Triton: the gradient of packed qkv, written once, in place, in a fixed order.

Scores are recomputed transposed, [keys, queries], so that the products behind dk and dv take them straight
from registers. With S the scores, P = softmax(S), O the output and dO its gradient:
dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(O dO)),  dQ = dS K,  dK = dS^T Q.

No key is masked: a key past the end is a row of zeros whose weight stays at most 1, so it adds nothing to dQ,
and its own gradients are not stored. Queries past the end have dO = 0 and add nothing either.

Source: Dao et al. 2022 (FlashAttention, appendix B); here the row sums are computed inside and dQ is never
accumulated in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kdcmae.kernels.attention.tiles import FREE_INTS, LOG2_E, dot, load_tile, locate, store_tile

__all__ = ["backward_resident", "backward_streaming_keys", "backward_streaming_queries"]


@triton.jit
def _load_query_side(q_base, out_base, grad_base, lse, row, length, width, ROWS: tl.constexpr, HEAD: tl.constexpr):
    """Queries, output gradient, its row sums with the output, and log-sum-exp of ROWS queries."""
    q = load_tile(q_base, row, length, 3 * width, ROWS, HEAD)
    grad = load_tile(grad_base, row, length, width, ROWS, HEAD)
    out = load_tile(out_base, row, length, width, ROWS, HEAD)
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    rows = row + tl.arange(0, ROWS)
    return q, grad, delta, tl.load(lse + rows, mask=rows < length, other=0.0)


@triton.jit
def _add_key_gradients(q, grad, delta, lse, k, v, dk, dv, scale, UPCAST: tl.constexpr):
    """dk and dv with one tile of queries added, and the transposed gradient of their scores."""
    # A weight is at most 1; the bound holds rounding, and keys past the end, to that.
    weights = tl.exp2(tl.minimum(dot(k, tl.trans(q), UPCAST) * scale - lse[None, :], 0.0))
    dv += dot(weights.to(grad.dtype), grad, UPCAST)
    dweights = dot(v, tl.trans(grad), UPCAST)
    dscores = (weights * (dweights - delta[None, :])).to(q.dtype)
    dk += dot(dscores, q, UPCAST)
    return dk, dv, dscores


@triton.jit(do_not_specialize=FREE_INTS)
def backward_resident(
    qkv,
    out,
    lse,
    grad,
    dqkv,
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
    """One program per sequence and head: all keys in one tile, dk and dv in registers, each dq complete at once."""
    head, start, length = locate(spans, ragged, first, length, num_heads)
    width = num_heads * HEAD
    q_base = qkv + start * 3 * width + head * HEAD
    dq_base = dqkv + start * 3 * width + head * HEAD
    out_base = out + start * width + head * HEAD
    grad_base = grad + start * width + head * HEAD
    lse_base = lse + head.to(tl.int64) * total + start
    scale = HEAD**-0.5
    k = load_tile(q_base + width, 0, length, 3 * width, ROWS, HEAD)
    v = load_tile(q_base + 2 * width, 0, length, 3 * width, ROWS, HEAD)
    dk = tl.zeros((ROWS, HEAD), tl.float32)
    dv = tl.zeros((ROWS, HEAD), tl.float32)
    for step in range(STEPS):
        row = step * STEP
        q, do, delta, query_lse = _load_query_side(
            q_base, out_base, grad_base, lse_base, row, length, width, STEP, HEAD
        )
        dk, dv, dscores = _add_key_gradients(q, do, delta, query_lse, k, v, dk, dv, LOG2_E * scale, UPCAST)
        # Transposed, so that the short side is not the one a Hopper matrix instruction wants to be 64.
        dq = tl.trans(dot(tl.trans(k), dscores, UPCAST))
        store_tile(dq_base, dq * scale, row, length, 3 * width, STEP, HEAD)
    store_tile(dq_base + width, dk * scale, 0, length, 3 * width, ROWS, HEAD)
    store_tile(dq_base + 2 * width, dv, 0, length, 3 * width, ROWS, HEAD)


@triton.jit(do_not_specialize=FREE_INTS)
def backward_streaming_keys(
    qkv,
    out,
    lse,
    grad,
    dqkv,
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
    """One program per sequence, head and block of ROWS keys: dk and dv, queries streaming past STEP at a time."""
    head, start, length = locate(spans, ragged, first, length, num_heads)
    width = num_heads * HEAD
    q_base = qkv + start * 3 * width + head * HEAD
    dq_base = dqkv + start * 3 * width + head * HEAD
    out_base = out + start * width + head * HEAD
    grad_base = grad + start * width + head * HEAD
    lse_base = lse + head.to(tl.int64) * total + start
    row = tl.program_id(1) * ROWS
    scale = HEAD**-0.5
    k = load_tile(q_base + width, row, length, 3 * width, ROWS, HEAD)
    v = load_tile(q_base + 2 * width, row, length, 3 * width, ROWS, HEAD)
    dk = tl.zeros((ROWS, HEAD), tl.float32)
    dv = tl.zeros((ROWS, HEAD), tl.float32)
    for step in range(STEPS):
        q, do, delta, query_lse = _load_query_side(
            q_base, out_base, grad_base, lse_base, step * STEP, length, width, STEP, HEAD
        )
        dk, dv, _ = _add_key_gradients(q, do, delta, query_lse, k, v, dk, dv, LOG2_E * scale, UPCAST)
    store_tile(dq_base + width, dk * scale, row, length, 3 * width, ROWS, HEAD)
    store_tile(dq_base + 2 * width, dv, row, length, 3 * width, ROWS, HEAD)


@triton.jit(do_not_specialize=FREE_INTS)
def backward_streaming_queries(
    qkv,
    out,
    lse,
    grad,
    dqkv,
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
    """One program per sequence, head and block of ROWS queries: dq, keys streaming past STEP at a time."""
    head, start, length = locate(spans, ragged, first, length, num_heads)
    width = num_heads * HEAD
    q_base = qkv + start * 3 * width + head * HEAD
    dq_base = dqkv + start * 3 * width + head * HEAD
    out_base = out + start * width + head * HEAD
    grad_base = grad + start * width + head * HEAD
    lse_base = lse + head.to(tl.int64) * total + start
    row = tl.program_id(1) * ROWS
    scale = HEAD**-0.5
    q, do, delta, query_lse = _load_query_side(q_base, out_base, grad_base, lse_base, row, length, width, ROWS, HEAD)
    dq = tl.zeros((ROWS, HEAD), tl.float32)
    for step in range(STEPS):
        k = load_tile(q_base + width, step * STEP, length, 3 * width, STEP, HEAD)
        v = load_tile(q_base + 2 * width, step * STEP, length, 3 * width, STEP, HEAD)
        scores = dot(q, tl.trans(k), UPCAST) * (LOG2_E * scale)
        weights = tl.exp2(tl.minimum(scores - query_lse[:, None], 0.0))
        dscores = weights * (dot(do, tl.trans(v), UPCAST) - delta[:, None])
        dq += dot(dscores.to(k.dtype), k, UPCAST)
    store_tile(dq_base, dq * scale, row, length, 3 * width, ROWS, HEAD)
