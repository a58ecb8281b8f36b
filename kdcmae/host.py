"""Facts about the machine and this process, for manifests and benchmark reports. Never imports torch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

__all__ = ["cpu_name", "describe_host", "peak_rss_bytes"]


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
