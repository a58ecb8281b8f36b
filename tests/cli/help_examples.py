"""The examples in every command's help, found by a walk over all commands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from itertools import takewhile
from pathlib import Path

import click

from kdcmae.bench.cli import main as bench
from kdcmae.cli import main as kdcmae
from kdcmae.cli.commands import LazyGroup
from kdcmae.compile.cli import main as compile_

PROGRAMS: dict[str, click.Command] = {"kdcmae": kdcmae, "kdcmae-compile": compile_, "kdcmae-bench": bench}
_REMARK = re.compile(r"\s+#.*$")
_VARIABLE = re.compile(r"^[A-Z_]+=\S+$")


@dataclass(frozen=True)
class Example:
    """One example: the command whose help has it, and its line as a person would type it, without a remark."""

    path: tuple[str, ...]
    line: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that are set before the program's name."""
        words = takewhile(_VARIABLE.match, shlex.split(self.line))
        return dict(word.split("=", 1) for word in words)

    def words(self, folder: Path) -> list[str]:
        """The program and its arguments as a shell in a folder hands them over, without what starts several ranks."""
        text, _, _ = self.line.partition(" > ")
        words = shlex.split(text)
        words = words[next(index for index, word in enumerate(words) if word in PROGRAMS) :]
        return [name for word in words for name in (sorted(glob(word, root_dir=folder)) if "*" in word else [word])]

    @property
    def written(self) -> str | None:
        """The file that the shell writes what the program prints into."""
        return self.line.partition(" > ")[2] or None


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all that are below it, by the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        names = command._modules if isinstance(command, LazyGroup) else command.list_commands(context)
        for name in names:
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))


EVERY = dict(pair for name, program in PROGRAMS.items() for pair in commands(program, (name,)))


def examples() -> list[Example]:
    """Every line that starts a program, and what continues it, in the parts of a help that are not wrapped."""
    found = []
    for path, command in EVERY.items():
        parts = [part for part in inspect.cleandoc(command.help or "").split("\n\n") if part.startswith("\b\n")]
        text = re.sub(r"\\\n\s*", "", "\n".join(parts))
        for row in map(str.strip, text.splitlines()):
            first = next((word for word in row.split() if not _VARIABLE.match(word)), "")
            if first in (*PROGRAMS, "torchrun"):
                found.append(Example(path, _REMARK.sub("", row)))
    return found
