"""Facts about the machine and this process, for manifests and benchmark reports. Never imports torch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

__all__ = ["cpu_features", "cpu_name", "describe_host", "peak_rss_bytes"]


def describe_host() -> dict[str, str | int]:
    """Operating system, processor and Python of this machine."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """The processor's name as the system gives it; empty where it does not."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


# The instructions that decide what compiled code runs on, and how fast, as Linux names them.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "bmi1", "bmi2"),
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vbmi2", "avx512ifma"),
    *("avx512_bitalg", "avx512_vpopcntdq", "gfni", "vaes", "vpclmulqdq"),
    *("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)


def cpu_features() -> frozenset[str]:
    """Vector and matrix instructions of this processor, as Linux names them; empty where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split()) & frozenset(_FEATURES)
    return frozenset()


def peak_rss_bytes() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not say.

    Linux's own counter is read because ``getrusage`` also counts what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
