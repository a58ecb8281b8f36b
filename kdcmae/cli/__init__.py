"""``kdcmae``: the command line. A command's module is imported when it is asked for, and torch only when it runs."""

from __future__ import annotations

from importlib import import_module

import click

from kdcmae import __version__
from kdcmae.cli.common import KdcmaeGroup

__all__ = ["main"]

_COMMANDS = {
    "data": "kdcmae.cli.data",
    "evaluate": "kdcmae.cli.evaluate",
    "finetune": "kdcmae.cli.finetune",
    "predict": "kdcmae.cli.predict",
    "pretrain": "kdcmae.cli.pretrain",
}


class _LazyGroup(KdcmaeGroup):
    """A group whose commands live in modules of their own, each as ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdcmae")
def main() -> None:
    """Audio-visual models, from self-supervised training to an engine inside an app."""
