"""Facts about the machine and this process, for manifests and benchmark reports. Never imports torch."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["cpu_features", "cpu_name", "cpu_numbers", "describe_host", "peak_rss_bytes", "usable_cpus"]


def describe_host() -> dict[str, str | int]:
    """Operating system, processor and Python of this machine."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def cpu_name(system: Path = Path("/")) -> str:
    """The name of the processor, or of its board, as the system reports it; empty if it reports neither.

    Args:
        system: root of the system's files.
    """
    cpuinfo, board = system / "proc/cpuinfo", system / "proc/device-tree/model"
    facts: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    if "model name" in facts:
        return facts["model name"]
    if board.is_file():  # Linux names ARM cores by numbers only
        return board.read_text(errors="replace").strip("\0\n")
    return f"{platform.machine()} core {facts['CPU part']}" if "CPU part" in facts else platform.processor()


# Instructions that determine where compiled code runs and how fast, by Linux's names.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "bmi1", "bmi2"),
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vbmi2", "avx512ifma"),
    *("avx512_bitalg", "avx512_vpopcntdq", "gfni", "vaes", "vpclmulqdq"),
    *("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve"),
)


def cpu_features() -> frozenset[str]:
    """Vector and matrix instructions of this processor, by Linux's names; empty if the system does not report them."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split()) & frozenset(_FEATURES)
    return frozenset()


def usable_cpus(root: Path = Path("/"), *, affinity: Collection[int] | None = None) -> int:
    """Number of CPUs that this process can use: its affinity, limited by the quota of its control group.

    With more threads than the quota allows, all threads stop until the next period begins, in the middle of an
    inference. For this reason the number is rounded down.

    Args:
        root: of the file system with ``proc`` and ``sys``.
        affinity: numbers of the CPUs that the process may run on; None to ask the system.
    """
    return len(cpu_numbers(root, affinity=affinity))


def cpu_numbers(root: Path = Path("/"), *, affinity: Collection[int] | None = None) -> tuple[int, ...]:
    """Numbers of the CPUs that :func:`usable_cpus` counts, in order: a process that is pinned needs them.

    Args:
        root: of the file system with ``proc`` and ``sys``.
        affinity: numbers of the CPUs that the process may run on; None to ask the system.
    """
    if affinity is None:
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cpus = sorted(affinity)
    return tuple(cpus[: max(1, int(min(len(cpus), *_cpu_quotas(root), math.inf)))])


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Quotas in CPUs of this process's control group and of its parents."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # The second version has one hierarchy, the first one per controller.
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = Path(name.lstrip("/"))
        # In a container the mounted folder is the container's own group, whatever its name is outside.
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            yield from _quota(_lines(folder / "cpu.max"))
            yield from _quota([*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")])


def _quota(lines: list[str]) -> Iterator[float]:
    """CPU time per period, both in microseconds; "max" and -1 mean no quota."""
    quota, period = (*" ".join(lines).split(), "", "")[:2]
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def peak_rss_bytes() -> int | None:
    """Largest resident memory of this process so far, in bytes; None if the system does not report it.

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
