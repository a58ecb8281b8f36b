"""``kdcmae``: the command line. The module of a command is imported on use, and torch only when the command runs."""

from __future__ import annotations

import click

from kdcmae.cli.common import LazyGroup

__all__ = ["main"]

_COMMANDS = (
    *("check", "cpp", "data", "demo", "distill", "doctor", "evaluate"),
    *("export", "finetune", "listen", "predict", "pretrain", "recipes"),
)
_MODULES = {name: f"kdcmae.cli.{name}" for name in _COMMANDS}


@click.group(cls=LazyGroup, modules=_MODULES)
def main() -> None:
    """Audio-visual models, from self-supervised training to an engine inside an app."""
