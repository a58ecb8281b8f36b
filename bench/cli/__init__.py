"""``kdcmae-bench``: engines and checkpoints side by side, with honest statistics."""

from __future__ import annotations

import click

from kdcmae.cli.common import LazyGroup

__all__ = ["main"]

_COMMANDS = (
    "ablation",
    "accuracy",
    "compare",
    "fleet",
    "keep",
    "kernels",
    "memory",
    "peers",
    "profile",
    "readme",
    "report",
    "run",
)
_MODULES = {name: f"kdcmae.bench.cli.{name}" for name in (*_COMMANDS, "suite")}


@click.group(cls=LazyGroup, modules=_MODULES, default="run")
def main() -> None:
    """Benchmark engines and checkpoints."""
