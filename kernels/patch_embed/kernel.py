"""Triton kernels that embed kept patches straight from the pixels, copy them out, and sum gradients by patch.

A row is one kept patch of one sample of one view, in the order (view, sample, kept). ``ids`` gives a row's patch;
without it every sample keeps all its ``kept`` patches in order. A pixel's address is its sample's start, plus its
patch's place in the grid, plus the place of pixel k in the patch, where k runs over (channel, line, pixel) as
memory does. ``STRIDES`` are those of sample, patch row, patch column, channel and line: spectrograms and images
differ in nothing else. ``FREE_INTS`` are the arguments whose value changes no code: Triton would otherwise
compile once more for each value divisible by 16.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["FREE_INTS", "embed_kernel", "gather_kernel", "sum_kernel"]

FREE_INTS = ["rows", "kept", "batch"]


@triton.jit
def _locate(ids, row, kept, batch, COLUMNS: tl.constexpr, STRIDES: tl.constexpr):
    """Patch id of each row, and where the patch's first pixel lies."""
    patch = row % kept if ids is None else tl.load(ids + row).to(tl.int32)
    sample = (row // kept % batch).to(tl.int64)
    return patch, sample * STRIDES[0] + (patch // COLUMNS) * STRIDES[1] + (patch % COLUMNS) * STRIDES[2]


@triton.jit
def _pixel(k, PATCH: tl.constexpr, STRIDES: tl.constexpr):
    """Offset of pixel k of a patch from the patch's first pixel."""
    return k // (PATCH * PATCH) * STRIDES[3] + k // PATCH % PATCH * STRIDES[4] + k % PATCH


@triton.jit
def _halves(tile, M: tl.constexpr, N: tl.constexpr):
    """Left and right half of an [M, N] tile."""
    return tl.split(tl.permute(tl.reshape(tile, (M, 2, N // 2)), (0, 2, 1)))


@triton.jit
def _finish(product, offset, positions, tokens, row, column, patch, rows, D: tl.constexpr):
    """tokens[row, column] = product + offset[column] + positions[patch, column]."""
    inside = (row[:, None] < rows) & (column[None, :] < D)
    position = tl.load(positions + patch[:, None] * D + column[None, :], mask=inside, other=0.0)
    value = product + tl.load(offset + column, mask=column < D, other=0.0)[None, :]
    value += position.to(tl.float32)
    place = tokens + row.to(tl.int64)[:, None] * D + column[None, :]
    tl.store(place, value.to(tokens.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=FREE_INTS)
def embed_kernel(
    pixels,
    matrix,
    offset,
    positions,
    ids,
    tokens,
    rows,
    kept,
    batch,
    COLUMNS: tl.constexpr,
    STRIDES: tl.constexpr,
    PATCH: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """tokens[row] = matrix @ pixels of the row's patch + offset + positions[patch]; a [BLOCK_M, BLOCK_N] tile each.

    The column tiles of one row tile are neighbours in the grid, so the pixels they share stay in the L2 cache.
    The tile is finished in quarters: beside all of it, the registers have no room for as many positions.
    ``UPCAST`` serves the interpreter, whose bfloat16 product is wrong.
    """
    column_tiles: tl.constexpr = (D + BLOCK_N - 1) // BLOCK_N
    row = tl.program_id(0) // column_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    first_column = tl.program_id(0) % column_tiles * BLOCK_N
    column = first_column + tl.arange(0, BLOCK_N)
    # Rows past the end repeat the last one and are not stored.
    patch, start = _locate(ids, tl.minimum(row, rows - 1), kept, batch, COLUMNS, STRIDES)
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        inside = (k[:, None] < K) & (column[None, :] < D)
        # Both sides are masked in k: a stray pixel might be infinite, and infinity times zero is not zero.
        a = tl.load(pixels + start[:, None] + _pixel(k, PATCH, STRIDES)[None, :], mask=k[None, :] < K, other=0.0)
        b = tl.load(matrix + column[None, :] * K + k[:, None], mask=inside, other=0.0)
        a = a.to(b.dtype)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        product = tl.dot(a, b, product, input_precision=PRECISION)
    left, right = _halves(product, BLOCK_M, BLOCK_N)
    quarters = _halves(left, BLOCK_M, BLOCK_N // 2) + _halves(right, BLOCK_M, BLOCK_N // 2)
    for index in tl.static_range(4):
        column = first_column + index * (BLOCK_N // 4) + tl.arange(0, BLOCK_N // 4)
        _finish(quarters[index], offset, positions, tokens, row, column, patch, rows, D)


@triton.jit(do_not_specialize=FREE_INTS)
def gather_kernel(
    pixels,
    ids,
    patches,
    rows,
    kept,
    batch,
    COLUMNS: tl.constexpr,
    STRIDES: tl.constexpr,
    PATCH: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """patches[row] = the K pixels of the row's patch, in the dtype of ``patches``; a [BLOCK_M, BLOCK_K] tile each."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (row[:, None] < rows) & (k[None, :] < K)
    _, start = _locate(ids, tl.minimum(row, rows - 1), kept, batch, COLUMNS, STRIDES)
    tile = tl.load(pixels + start[:, None] + _pixel(k, PATCH, STRIDES)[None, :], mask=inside)
    place = patches + row.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(place, tile.to(patches.dtype.element_ty), mask=inside)


@triton.jit
def sum_kernel(grad, order, starts, total, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """total[patch] = sum of the rows of ``grad`` that hold the patch: order[starts[patch] : starts[patch + 1]].

    One program per patch and BLOCK_N columns, rows in a fixed order: no atomics, the same bits every run.
    """
    patch = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(starts + patch)
    end = tl.load(starts + patch + 1)
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    # A while loop, because the interpreter of Triton 3.6 fails on range() with run-time bounds and NumPy 2.4.
    while first < end:
        place = first + tl.arange(0, BLOCK_M)
        row = tl.load(order + place, mask=place < end, other=0)
        inside = (place[:, None] < end) & (column[None, :] < D)
        sums += tl.load(grad + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
        first += BLOCK_M
    tl.store(total + patch * D + column, tl.sum(sums, axis=0).to(total.dtype.element_ty), mask=column < D)
