"""Where a benchmark ran: machine, load, library versions, commit."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.bench.machine.state import machine_state

__all__ = ["describe_environment", "git_commit", "usable_cpus"]

_LIBRARIES = (
    "numpy",
    "torch",
    "openvino",
    "onnxruntime",
    "nncf",
    "tensorrt-cu13-bindings",
    "tensorrt-rtx-cu13-bindings",
)
_ROOT = Path(__file__).resolve().parents[2]


def describe_environment() -> dict[str, Any]:
    """The facts that a figure means nothing without. Call it first: the state is that of before the benchmark."""
    before = machine_state()
    return {
        "host": host.describe_host(),
        "usable_cpus": len(usable_cpus()),
        "load_average_1min": before["load_average_1min"],
        "before": before,
        "libraries": _installed_versions(),
        "git_commit": git_commit(_ROOT),
    }


def cpus_for(threads: int) -> tuple[int, ...]:
    """The CPUs that so many threads are pinned to; more threads than CPUs are possible, and then nothing is pinned."""
    usable = usable_cpus()
    return usable[:threads] if threads <= len(usable) else tuple(range(threads))


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def git_commit(root: Path) -> str | None:
    """The commit checked out in ``root``, with ``-dirty`` where files differ from it; None where it is no checkout.

    Args:
        root: must be the top of the checkout: a package installed below somebody else's is not theirs.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top) != root:
        return None
    return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _installed_versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
