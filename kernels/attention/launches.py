"""The kernel and the tiling for each length: the attention entry of the tables in ``kernels/configs``.

The entry::

    {
      "vendor_from_length": {"float32": 1, "float16": 512, "bfloat16": 512},
      "forward": [{"bits": 16, "head_size": 64, "max_length": 128, "kernel": "resident", "rows": [128, 0],
                   "step": 64, "num_warps": 4, "num_stages": 2}, ...],     one :class:`Tiling` each
      "backward": [...]
    }

Rows are tried in order; the first that fits element width, head size and length serves. ``vendor_from_length``
sends lengths from that one up to PyTorch's own attention, forward and backward alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
import triton

from kdcmae.errors import ConfigError
from kdcmae.kernels import configs
from kdcmae.kernels.attention import backward, forward
from kdcmae.kernels.attention.tiles import FREE_INTS
from kdcmae.kernels.compile_gate import Build

__all__ = ["HEAD_SIZES", "Direction", "Launch", "Tiling", "builds", "launches", "tiling", "vendor_length"]

Direction = Literal["forward", "backward"]

HEAD_SIZES = (32, 64)
"""Head sizes the kernels are built for."""

_TRITON_TYPES = MappingProxyType({torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"})
_KERNELS = MappingProxyType(
    {
        ("forward", "resident"): (forward.forward_resident,),
        ("forward", "streaming"): (forward.forward_streaming,),
        ("backward", "resident"): (backward.backward_resident,),
        ("backward", "streaming"): (backward.backward_streaming_keys, backward.backward_streaming_queries),
    }
)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """One row of a table.

    Args:
        bits: element width it serves, 16 or 32.
        head_size: it serves, 32 or 64.
        max_length: the longest sequence it serves.
        kernel: ``resident``: a program holds all keys of a head and steps through the queries; ``streaming``: it
            holds a block of queries or keys and steps through the other side.
        rows: rows a program holds, in two tiles; the second is 0 but for the resident forward.
        step: rows of one step.
        num_warps: warps per program.
        num_stages: software pipelining depth of the steps.
        max_registers: registers per thread, where fewer than the compiler would take let one more program onto a
            multiprocessor; None for no limit.
    """

    bits: int
    head_size: int
    max_length: int
    kernel: Literal["resident", "streaming"]
    rows: tuple[int, int]
    step: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel, its constants, and how many blocks of rows there are to a sequence and head."""

    kernel: Any
    constants: Mapping[str, int]
    blocks: int


def vendor_length(device: torch.device, dtype: torch.dtype) -> int:
    """The length from which PyTorch's own attention serves; 0 for a dtype without a kernel."""
    return configs.table("attention", device)["vendor_from_length"].get(_name(dtype), 0)


def tiling(direction: Direction, device: torch.device, dtype: torch.dtype, head_size: int, length: int) -> Tiling:
    """The row of the device's table that serves a sequence of ``length`` rows.

    Raises:
        ConfigError: there is none.
    """
    for row in _rows(direction, device):
        if row.bits == 8 * dtype.itemsize and row.head_size == head_size and length <= row.max_length:
            return row
    raise ConfigError(
        f"no attention {direction} kernel for {_name(dtype)}, head size {head_size} and length {length} in "
        f"kernels/configs; use kdcmae.ops.attention, which knows when to call another"
    )


def launches(direction: Direction, row: Tiling, length: int) -> Iterator[Launch]:
    """The launches, one after the other, for sequences of up to ``length`` rows."""
    held, more = row.rows
    constants = {"HEAD": row.head_size, "ROWS": held, "STEP": row.step, "STEPS": triton.cdiv(length, row.step)}
    if direction == "forward" and row.kernel == "resident":
        constants["MORE_ROWS"] = more
    for kernel in _KERNELS[direction, row.kernel]:
        yield Launch(
            kernel=kernel,
            constants=constants,
            blocks=1 if row.kernel == "resident" else triton.cdiv(length, held),
        )


def builds(table: Mapping[str, Any]) -> Iterator[Build]:
    """Everything a table can launch, at the longest length of each row, for the compile gate."""
    for direction in get_args(Direction):
        for row, dtype in product(_parse(table[direction]), _TRITON_TYPES):
            if row.bits == 8 * dtype.itemsize:
                for launch in launches(direction, row, row.max_length):
                    yield _build(row, launch, dtype)


def _build(row: Tiling, launch: Launch, dtype: torch.dtype) -> Build:
    arrays = dict.fromkeys(("qkv", "out", "grad", "dqkv"), f"*{_TRITON_TYPES[dtype]}")
    return Build(
        name=f"attention.{launch.kernel.__name__} {_name(dtype)} head {row.head_size} length {row.max_length}",
        kernel=launch.kernel,
        types={**arrays, "lse": "*fp32", "spans": "*i32", **dict.fromkeys(FREE_INTS, "i32")},
        constants={**launch.constants, "UPCAST": False},
        num_warps=row.num_warps,
        num_stages=row.num_stages,
        max_registers=row.max_registers,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache
def _rows(direction: Direction, device: torch.device) -> tuple[Tiling, ...]:
    return _parse(configs.table("attention", device)[direction])


def _parse(rows: list[dict[str, Any]]) -> tuple[Tiling, ...]:
    return tuple(Tiling(**{**row, "rows": tuple(row["rows"])}) for row in rows)
