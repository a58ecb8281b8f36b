"""CPU classes: what a processor multiplies natively, and whether its int8 products saturate.

An engine library chooses its kernels by the instructions of the processor, so the same engine file executes in bfloat16
on one machine and in float32 on another. This module and the precisions' records know which instructions decide that.
Another machine is described by the name of its class, which stands for the least capable machine of that class, or by
the JSON that ``kdcmae doctor --json`` wrote on it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.errors import ConfigError
from kdcmae.runtime.precisions import FLOATING, PRECISIONS

__all__ = ["CAP_VARIABLE", "CLASSES", "Cpu", "CpuClass", "describe_cpu", "this_cpu"]

CAP_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Environment variable with the highest instruction set that oneDNN uses, and so PyTorch and OpenVINO.

ONNX Runtime ignores it.
"""

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})
_VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})  # any of them adds products of bytes in 32 bits


@dataclass(frozen=True, kw_only=True)
class CpuClass:
    """Processors that execute an engine in the same precisions.

    Args:
        name: value of ``--for``.
        machine: the architecture, as ``platform.machine()`` names it on Linux.
        features: instructions that all processors of the class have, as Linux names them.
    """

    name: str
    machine: str
    features: frozenset[str]


_AVX2 = frozenset({"avx", "avx2", "fma", "f16c"})
_AVX512_BF16 = _AVX2 | _AVX512 | {"avx512_vnni", "avx512_bf16"}

# Ordered from the least to the most capable of an architecture. A processor belongs to the last class that it fits.
CLASSES: Mapping[str, CpuClass] = {
    cpu_class.name: cpu_class
    for cpu_class in (
        CpuClass(name="avx2", machine="x86_64", features=_AVX2),
        CpuClass(name="avx2-vnni", machine="x86_64", features=_AVX2 | {"avx_vnni"}),
        CpuClass(name="avx512", machine="x86_64", features=_AVX2 | _AVX512),
        CpuClass(name="avx512-bf16", machine="x86_64", features=_AVX512_BF16),
        CpuClass(name="amx", machine="x86_64", features=_AVX512_BF16 | {"amx_tile", "amx_int8", "amx_bf16"}),
        CpuClass(name="arm64", machine="aarch64", features=frozenset({"asimd"})),
    )
}

_AVX512_FP16 = _AVX512_BF16 | {"avx512_fp16"}

# Instructions that oneDNN still uses under each cap, among those that caps control.
_CAPS: Mapping[str, frozenset[str]] = {
    "SSE41": frozenset(),
    "AVX": frozenset({"avx"}),
    "AVX2": _AVX2,
    "AVX2_VNNI": _AVX2 | {"avx_vnni"},
    "AVX2_VNNI_2": _AVX2 | {"avx_vnni"},
    "AVX512_CORE": _AVX2 | _AVX512,
    "AVX512_CORE_VNNI": _AVX2 | _AVX512 | {"avx512_vnni"},
    "AVX512_CORE_BF16": _AVX512_BF16,
    "AVX512_CORE_FP16": _AVX512_FP16,
    "AVX10_1_512": _AVX512_FP16,
}
_CAPPED = _AVX512_FP16 | {"avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """A processor: what decides how it executes engines.

    Args:
        machine: the architecture, such as ``x86_64`` or ``aarch64``.
        features: its instructions, as Linux names them.
        name: name of the processor, or of the class that it stands for.
    """

    machine: str
    features: frozenset[str]
    name: str = ""

    @property
    def class_name(self) -> str:
        """The processor's class, one of :data:`CLASSES`; empty if it is below all of them."""
        fitting = [
            cpu_class.name
            for cpu_class in CLASSES.values()
            if cpu_class.machine == self.machine and cpu_class.features <= self.features
        ]
        return fitting[-1] if fitting else ""

    @property
    def described(self) -> str:
        """Name and class for messages."""
        name, known = self.name or self.machine, self.class_name
        if name == known:
            return f"a CPU of class {known}"
        return f"{name} ({known})" if known else name

    def capped(self, cap: str) -> Cpu:
        """The processor without what a cap of oneDNN excludes: nothing, if oneDNN does not know the cap."""
        return replace(self, features=self.features - (_CAPPED - _CAPS.get(cap.upper(), _CAPPED)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for manifests."""
        return {
            "class": self.class_name,
            "name": self.name,
            "machine": self.machine,
            "features": sorted(self.features),
        }

    @property
    def saturates_int8(self) -> bool:
        """Whether int8 products saturate, because the sum of two products of u8 by s8 has only 16 bits.

        True for x86 without VNNI (``vpmaddubsw``); ARM adds such products in 32 bits with and without ``asimddp``.
        """
        return self.machine == "x86_64" and not self.features & _VNNI

    @property
    def fastest_floating(self) -> str:
        """The fastest floating precision of matrix products: ``bf16``, ``fp16`` or ``fp32``."""
        return self.fastest_of(FLOATING)

    def fastest_of(self, precisions: Iterable[str]) -> str:
        """The precision that this CPU multiplies fastest.

        Args:
            precisions: floating ones to choose from, ``fp32`` among them.
        """
        fast = [
            record
            for name in precisions
            if self._has((record := PRECISIONS[name]).fast_instructions) and self.multiplies(name)
        ]
        return min(fast, key=lambda record: record.speed).name

    def multiplies(self, precision: str) -> bool:
        """Whether instructions multiply this precision natively.

        Args:
            precision: one of :data:`kdcmae.runtime.precisions.PRECISIONS`.
        """
        return self._has(PRECISIONS[precision].instructions)

    def _has(self, instructions: frozenset[str] | None) -> bool:
        return instructions is None or bool(instructions & self.features)


def this_cpu() -> Cpu:
    """This machine's processor, without the instructions that :data:`CAP_VARIABLE` excludes."""
    machine = platform.machine()
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    cpu = Cpu(machine=machine, features=host.cpu_features(), name=host.cpu_name())
    return cpu.capped(os.environ.get(CAP_VARIABLE, ""))


def describe_cpu(text: str) -> Cpu:
    """The processor that ``--for`` names.

    Args:
        text: one of :data:`CLASSES`, or the path of a file that ``kdcmae doctor --json`` wrote on the device.

    Raises:
        ConfigError: the text is neither of them.
    """
    if text in CLASSES:
        cpu_class = CLASSES[text]
        return Cpu(machine=cpu_class.machine, features=cpu_class.features, name=text)
    known = f"one of {', '.join(CLASSES)}, or a file that kdcmae doctor --json wrote on the device"
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"--for {text!r} is neither a CPU class nor a file; give {known}")
    try:
        document = json.loads(path.read_bytes())
        return _from_diagnosis(document)
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ConfigError(f"--for {text}: not the JSON of kdcmae doctor --json; give {known}") from None


def _from_diagnosis(document: Mapping[str, Any]) -> Cpu:
    features, facts = document["cpu_features"], document["host"]
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise TypeError("cpu_features")
    return Cpu(machine=str(facts["machine"]), features=frozenset(features), name=str(facts["cpu"]))
