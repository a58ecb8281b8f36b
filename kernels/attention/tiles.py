"""Pieces the attention kernels share: addresses of one head of one sequence, tile loads and stores, dot products.

Layout, everywhere: ``qkv`` and its gradient are [T, 3, H, D], ``out`` and its gradient [T, H, D], ``lse``
[H, T]; T counts the rows of all sequences together. Rows past a sequence's end are loaded as zeros and never
stored, so a tile may reach into the next sequence. The kernels take every size that changes the code as a
``tl.constexpr``; ``FREE_INTS`` are the launch arguments that must not: Triton would otherwise compile once
more for each value divisible by 16.
"""

from __future__ import annotations

import triton
import triton.language as tl

FREE_INTS = ["ragged", "first", "length", "total", "num_heads"]
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def locate(spans, ragged, first, length, num_heads):
    """Head, first row and length of the sequence that a program of the grid's first axis works on.

    Sequences of one length follow each other from row ``first``; others, where ``ragged`` is 1, have their first row
    and length in ``spans``. One compiled kernel serves both: a masked load costs the first kind nothing.
    """
    program = tl.program_id(0)
    sequence = program // num_heads
    start = tl.load(spans + 2 * sequence, mask=ragged > 0, other=first + sequence * length)
    length = tl.load(spans + 2 * sequence + 1, mask=ragged > 0, other=length)
    return program % num_heads, start.to(tl.int64), length


@triton.jit
def load_tile(base, row, length, stride, ROWS: tl.constexpr, HEAD: tl.constexpr):
    """[ROWS, HEAD] from row ``row`` of a sequence; zeros past its end."""
    rows = row + tl.arange(0, ROWS)[:, None]
    return tl.load(base + rows * stride + tl.arange(0, HEAD)[None, :], mask=rows < length, other=0.0)


@triton.jit
def store_tile(base, tile, row, length, stride, ROWS: tl.constexpr, HEAD: tl.constexpr):
    """Write [ROWS, HEAD] at row ``row`` of a sequence in the dtype of ``base``; nothing past its end."""
    rows = row + tl.arange(0, ROWS)[:, None]
    pointers = base + rows * stride + tl.arange(0, HEAD)[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=rows < length)


@triton.jit
def dot(a, b, UPCAST: tl.constexpr):
    """Matrix product in float32; ``UPCAST`` serves the interpreter, whose bfloat16 product is wrong."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")
