"""Where a benchmark ran: machine, load, library versions, commit."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.runtime.targets import TARGETS

__all__ = ["describe_environment", "git_commit"]

_ROOT = Path(__file__).resolve().parents[2]


def describe_environment(*, measures: bool = True) -> dict[str, Any]:
    """The facts that every figure depends on. Call it before measuring: it has the state of the machine at rest.

    Args:
        measures: something is measured here; otherwise the state of the machine, which psutil reads, is left out.
    """
    state: dict[str, Any] = {}
    if measures:
        from kdcmae.bench.machine.state import machine_state

        before = machine_state()
        state = {"load_average_1min": before["load_average_1min"], "before": before}
    return {
        "host": host.describe_host(),
        "usable_cpus": host.usable_cpus(),
        **state,
        "libraries": _installed_versions(),
        "git_commit": git_commit(_ROOT),
    }


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
    engines = [name for target in TARGETS.values() for name in target.distributions]
    for library in dict.fromkeys(("numpy", "torch", "triton", "nncf", *engines)):
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
