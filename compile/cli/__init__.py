"""``kdcmae-compile``: a finetuned checkpoint in, a verified engine folder out."""

from __future__ import annotations

import click

from kdcmae.cli.common import LazyGroup

__all__ = ["main"]

_MODULES = {name: f"kdcmae.compile.cli.{name}" for name in ("build", "diagnose", "diff", "inspect", "verify")}


@click.group(cls=LazyGroup, modules=_MODULES, default="build")
def main() -> None:
    """Compile models to engines, and look into engines."""
