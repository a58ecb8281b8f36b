"""Compile every shipped kernel configuration for a GPU architecture, with no GPU, and read what it costs.

A configuration that spills registers or wants more shared memory than the architecture has is broken, and shows
it only on that GPU; this finds it anywhere Triton installs. Triton must not be interpreting
(``TRITON_INTERPRET`` unset), because that replaces its compiler.

A kernel takes part through a module named in ``KERNELS`` with a function ``builds(table)`` that lists what one of
its tables compiles to.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from types import MappingProxyType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kdcmae.errors import ConfigError, GateError
from kdcmae.kernels import configs

__all__ = ["KERNELS", "SHARED_MEMORY_BYTES", "Build", "Resources", "check", "measure"]

KERNELS = MappingProxyType(
    {
        "attention": "kdcmae.kernels.attention.launches",
        "patch_embed": "kdcmae.kernels.patch_embed.launches",
    }
)

SHARED_MEMORY_BYTES = MappingProxyType(
    {80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
)
"""Most shared memory one block may have. Source: CUDA C++ Programming Guide, compute capabilities table."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """One kernel as one row of a table compiles it.

    Args:
        name: what to call it in a report.
        kernel: the ``@triton.jit`` function.
        types: Triton type, such as ``"*bf16"`` or ``"i32"``, of every argument that is no constant; pointers
            are taken as 16-byte aligned, as PyTorch allocates.
        constants: value of every other argument.
        num_warps: warps per program.
        num_stages: software pipelining depth.
        max_registers: registers per thread the compiler may use, or None for as many as there are.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    max_registers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of a compiled kernel: registers per thread, spilled bytes per thread, shared bytes per block."""

    name: str
    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int

    @property
    def fault(self) -> str | None:
        """Reason why this must not ship, or None."""
        limit = SHARED_MEMORY_BYTES[self.architecture]
        if self.spilled_bytes:
            return f"{self.name} on sm_{self.architecture} spills {self.spilled_bytes} bytes per thread"
        if self.shared_bytes > limit:
            return f"{self.name} on sm_{self.architecture} wants {self.shared_bytes} of {limit} bytes of shared memory"
        return None


def check(architecture: int) -> list[Resources]:
    """Compile everything the shipped tables can launch on an architecture.

    Args:
        architecture: compute capability as a number, such as 90.

    Returns:
        What each build takes.

    Raises:
        GateError: one line per build that spills or wants too much shared memory.
    """
    builds = [
        build
        for kernel, module in KERNELS.items()
        for table in configs.shipped_tables(kernel, architecture).values()
        for build in import_module(module).builds(table)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(measure, builds, repeat(architecture)))
    faults = [resources.fault for resources in measured if resources.fault]
    if faults:
        raise GateError("\n".join([*faults, "give these shapes another row in kernels/configs"]))
    return measured


def measure(build: Build, architecture: int) -> Resources:
    """Compile one build and read its resources from the machine code.

    Raises:
        ConfigError: Triton is interpreting.
    """
    if triton.knobs.runtime.interpret:
        raise ConfigError("the interpreter compiles nothing; unset TRITON_INTERPRET")
    names = build.kernel.arg_names
    types = {name: build.types.get(name, "constexpr") for name in names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if types[name].startswith("*")}
    compiled = triton.compile(
        ASTSource(build.kernel, types, dict(build.constants), aligned),
        target=GPUTarget("cuda", architecture, 32),
        options={
            "num_warps": build.num_warps,
            "num_stages": build.num_stages,
            "maxnreg": build.max_registers,
        },
    )
    registers, stack_bytes = _usage(compiled.asm["cubin"])
    return Resources(
        name=build.name,
        architecture=architecture,
        registers=registers,
        spilled_bytes=stack_bytes,
        shared_bytes=compiled.metadata.shared,
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread; the stack of a kernel without arrays or calls holds only spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if usage is None:
        raise GateError(f"cuobjdump reported no resources: {report!r}")
    return int(usage[1]), int(usage[2])
