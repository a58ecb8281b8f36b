"""Every command of the three programs, by a walk over their groups."""

from __future__ import annotations

from collections.abc import Iterator

import click

from kdcmae.bench.cli import main as bench
from kdcmae.cli import main as kdcmae
from kdcmae.cli.commands import LazyGroup
from kdcmae.compile.cli import main as compile_

PROGRAMS: dict[str, click.Command] = {"kdcmae": kdcmae, "kdcmae-compile": compile_, "kdcmae-bench": bench}


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all commands below it, each with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        names = command._modules if isinstance(command, LazyGroup) else command.list_commands(context)
        for name in names:
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


EVERY = dict(pair for name, program in PROGRAMS.items() for pair in commands(program, (name,)))
