"""The tiling for each dtype: the patch embedding's entry of the tables in ``kernels/configs``.

The entry::

    {
      "vendor_dtypes": ["float32"],
      "tilings": [{"pixel_bits": 32, "bits": 16, "rows": 128, "columns": 128, "step": 32,
                   "num_warps": 8, "num_stages": 3}, ...]
    }

``vendor_dtypes`` names the weight dtypes that gathered pixels and the vendor's GEMM serve better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor

from kdcmae.errors import ConfigError
from kdcmae.kernels import configs
from kdcmae.kernels.compile_gate import Build
from kdcmae.kernels.patch_embed.kernel import FREE_INTS, embed_kernel, gather_kernel, sum_kernel
from kdcmae.kernels.patch_embed.reference import patch_grid

__all__ = ["GATHER", "SUM", "Tiling", "builds", "column_block", "geometry", "tiling", "vendor_serves"]

GATHER = MappingProxyType({"BLOCK_M": 16, "BLOCK_K": 256})
SUM = MappingProxyType({"BLOCK_M": 16, "BLOCK_N": 128})
"""Tiles of the two small kernels, which only move data: 4 warps serve every GPU."""

_BASE_DIM = 768
_BASE_PIXELS = ((1, 1024, 128), (1, 3, 224, 224))
_TRITON_TYPES = MappingProxyType({torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"})


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One row of a table.

    Args:
        pixel_bits: width of the pixels it serves, 16 or 32.
        bits: width of the weights it serves, 16 or 32.
        rows: tokens of a tile.
        columns: most channels of a tile; narrower models take the power of two that holds them.
        step: pixels per patch that one step multiplies.
        num_warps: warps per program.
        num_stages: software pipelining depth of the steps.
    """

    pixel_bits: int
    bits: int
    rows: int
    columns: int
    step: int
    num_warps: int
    num_stages: int


def vendor_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device's table leaves weights of ``dtype`` to gathered pixels and the vendor's GEMM."""
    return str(dtype).removeprefix("torch.") in configs.table("patch_embed", device)["vendor_dtypes"]


@lru_cache
def tiling(device: torch.device, pixels: torch.dtype, weight: torch.dtype) -> Tiling:
    """The row of the device's table that serves pixels and weights of these dtypes.

    Raises:
        ConfigError: there is none.
    """
    for row in _parse(configs.table("patch_embed", device)):
        if (row.pixel_bits, row.bits) == (8 * pixels.itemsize, 8 * weight.itemsize):
            return row
    raise ConfigError(f"no patch embedding kernel for {pixels} pixels and {weight} weights; use backend 'reference'")


def column_block(row: Tiling, dim: int) -> int:
    """Channels of a tile for a model ``dim`` wide; the tile is finished in quarters of at least 16."""
    return min(row.columns, max(64, triton.next_power_of_2(dim)))


def geometry(pixels: Tensor, patch_size: int) -> dict[str, Any]:
    """The kernels' constants that say where a patch's pixels lie, for (B, T, F) or (B, C, H, W) contiguous pixels."""
    grid = patch_grid(pixels, patch_size)
    sample, row, column, *channel, line, _ = grid.stride()
    return {
        "COLUMNS": grid.shape[2],
        "STRIDES": (sample, row, column, *(channel or [0]), line),
        "PATCH": patch_size,
        "K": grid[0, 0, 0].numel(),
    }


def builds(table: Mapping[str, Any]) -> Iterator[Build]:
    """Everything a table can launch for the base model, for the compile gate."""
    for shape in _BASE_PIXELS:
        where = geometry(torch.empty(shape, device="meta"), 16)
        for row in _parse(table):
            yield from _embed_builds(row, where)
        for dtype in _TRITON_TYPES:
            yield _build(gather_kernel, {"pixels": torch.float32, "patches": dtype}, {**where, **GATHER})
    for dtype in _TRITON_TYPES:
        yield _build(sum_kernel, {"grad": dtype, "total": dtype}, {"D": _BASE_DIM, **SUM})


def _embed_builds(row: Tiling, where: Mapping[str, Any]) -> Iterator[Build]:
    """A row with the mixtures of dtypes that a model in one dtype, or under autocast, makes of it."""
    constants = {
        **where,
        "D": _BASE_DIM,
        "PRECISION": "ieee",
        "UPCAST": False,
        "BLOCK_M": row.rows,
        "BLOCK_N": column_block(row, _BASE_DIM),
        "BLOCK_K": row.step,
    }
    for matrix in (dtype for dtype in _TRITON_TYPES if 8 * dtype.itemsize == row.bits):
        pixels = matrix if row.pixel_bits == row.bits else torch.float32
        for tokens in dict.fromkeys((matrix, torch.float32)):
            dtypes = {"pixels": pixels, "matrix": matrix, "positions": tokens, "tokens": tokens}
            dtypes["offset"] = torch.float32
            yield _build(embed_kernel, dtypes, constants, row.num_warps, row.num_stages)


def _build(
    kernel: Any,
    dtypes: Mapping[str, torch.dtype],
    constants: Mapping[str, Any],
    num_warps: int = 4,
    num_stages: int = 1,
) -> Build:
    pointers = {argument: f"*{_TRITON_TYPES[dtype]}" for argument, dtype in dtypes.items()}
    integers = {**dict.fromkeys(("ids", "order", "starts"), "*i64"), **dict.fromkeys(FREE_INTS, "i32")}
    return Build(
        name=" ".join([kernel.__name__, *pointers.values(), *(f"{k}={constants[k]}" for k in "KD" if k in constants)]),
        kernel=kernel,
        types={**pointers, **integers},
        constants=constants,
        num_warps=num_warps,
        num_stages=num_stages,
    )


def _parse(table: Mapping[str, Any]) -> list[Tiling]:
    return [Tiling(**row) for row in table["tilings"]]
