"""What the command lines share: error handling, consoles and JSON output.

Results go to stdout; progress, notes and errors go to stderr, so that ``--json`` leaves exactly one JSON
object on stdout.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from kdcmae.errors import KdcmaeError

__all__ = [
    "KdcmaeCommand",
    "KdcmaeGroup",
    "LazyGroup",
    "Steps",
    "exit_on_sigterm",
    "json_option",
    "note",
    "print_json",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(document, indent=2, sort_keys=False))


def note(message: str) -> None:
    """Print one line on stderr, in the place of a running step's name where there is one."""
    click.echo(f"{_overwrite()}{message}", err=True)


def _overwrite() -> str:
    """What a terminal takes for: go to the start of the line and clear it."""
    return "\r\x1b[K" if sys.stderr.isatty() else ""


class _ErrorHandling(click.Command):
    """Turns errors into one line on stderr and the right exit code.

    0 done; 1 a gate failed; 2 wrong use or bad input; 3 something is missing on this machine; 130 interrupted.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KdcmaeError as error:
            _fail(str(error), error.exit_code)
        except BrokenPipeError:  # the reader of our output went away, as in `... | head`
            sys.stderr.close()
            raise SystemExit(0) from None
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}", 2)


class KdcmaeCommand(_ErrorHandling):
    """A command whose errors are one line and an exit code."""


class KdcmaeGroup(click.Group):
    """A group whose commands are :class:`KdcmaeCommand`."""

    command_class = KdcmaeCommand


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, each as ``command``, imported when asked for.

    Args:
        modules: where each command is, by its name.
        default: the command that gets the arguments where none is named; its help is the group's.
    """

    def __init__(self, *args: Any, modules: Mapping[str, str], default: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = modules
        self._default = default

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(name for name in self._modules if name != self._default)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        command = import_module(self._modules[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self._default is not None and (not args or args[0] not in {*self._modules, *ctx.help_option_names}):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._default is None:
            super().format_help(ctx, formatter)
            return
        default = self.get_command(ctx, self._default)
        assert default is not None
        with click.Context(default, info_name=ctx.info_name, **self.context_settings) as default_ctx:
            default.format_help(default_ctx, formatter)
        self.format_commands(ctx, formatter)


def exit_on_sigterm() -> None:
    """Make SIGTERM unwind the stack like Ctrl-C, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _fail(message: str, exit_code: int) -> None:
    note(f"error: {message}")
    raise SystemExit(exit_code)


class Steps:
    """Shows the steps of a long command on stderr and remembers what each took.

    Each step is one line when it is done; on a terminal the running one is shown too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one step.

        Args:
            name: what is being done, such as ``"export to ONNX"``.
        """
        start = time.perf_counter()
        if sys.stderr.isatty():
            click.echo(f"{_overwrite()}  {name} ...", err=True, nl=False)
        yield
        self.seconds[name] = time.perf_counter() - start
        note(f"  {name:<28} {self.seconds[name]:6.1f} s")
