"""``kdcmae-bench``: engines and checkpoints side by side, with honest statistics."""

from __future__ import annotations

import click

from kdcmae.cli.common import LazyGroup

__all__ = ["main"]

_COMMANDS = {
    "documents": ("compare", "fleet", "readme", "report"),
    "measuring": ("kernels", "peers", "run", "suite"),
    "studies": ("ablation", "accuracy", "keep", "memory", "profile", "throughput"),
}
_PLACES = ((name, f"kdcmae.bench.cli.{module}:{name}") for module, names in _COMMANDS.items() for name in names)


@click.group(cls=LazyGroup, modules=dict(sorted(_PLACES)), default="run")
def main() -> None:
    """Benchmark engines and checkpoints."""
