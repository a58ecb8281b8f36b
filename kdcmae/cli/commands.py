"""Command classes of kdcmae's programs.

Each has ``--version`` and ``--traceback``, shows its options' defaults, lists many options in sections,
and ends as described in :mod:`kdcmae.cli.ending`.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from kdcmae import __version__
from kdcmae.cli.ending import TRACEBACK_VARIABLE, Run, exit_code_of, past_click
from kdcmae.terminal import say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["KdcmaeCommand", "KdcmaeGroup", "LazyGroup", "Number", "Sections"]

Sections = Mapping[str, Collection[str]]
"""Names of parameters by their heading in ``--help``, in the order of the headings."""

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        say(f"{ctx.find_root().info_name}, version {__version__}")
        ctx.exit()


def _show_traceback(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.ensure_object(Run).traceback = True


_OF_EVERY_COMMAND: tuple[click.Parameter, ...] = (
    click.Option(
        ["--traceback"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_traceback,
        help=f"Show where an error comes from, as {TRACEBACK_VARIABLE}=1 does.",
    ),
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version and exit.",
    ),
)


def _write_section(formatter: click.HelpFormatter, heading: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows)


class Number(click.FloatRange):  # noqa: TID251
    """A finite number in a range; click lets NaN, which fails no comparison, and infinity pass."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        """The range in ``--help``; empty for a range without ends, which click shows as ``x<=None``."""
        return "" if self.min is self.max is None else super()._describe_range()


class KdcmaeCommand(click.Command):
    """A command that ends with one line and an exit code, whatever happens.

    Args:
        sections: its options by heading, in order; options without a heading come last.
        settings: those of :class:`click.Command`.
    """

    def __init__(self, *args: Any, sections: Sections | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.context_settings = {**_CONTEXT, **self.context_settings}
        self.sections = sections or {}
        self.params = [*self.params, *_OF_EVERY_COMMAND]

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        start = partial(super().main, args, *rest, standalone_mode=False)
        if not standalone_mode:
            return start(**extra)
        run = Run()
        raise SystemExit(exit_code_of(partial(start, **{"obj": run, **extra}), run))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with past_click():
            return super().invoke(ctx)

    def get_short_help_str(self, limit: int = 0) -> str:
        """The summary in a list of commands: a whole sentence, of any length."""
        return super().get_short_help_str(limit=1000)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        options = [parameter for parameter in self.get_params(ctx) if not isinstance(parameter, click.Argument)]
        records = {option.name: record for option in options if (record := option.get_help_record(ctx)) is not None}
        for heading, names in self.sections.items():
            _write_section(formatter, heading, [records.pop(name) for name in names if name in records])
        _write_section(formatter, "Other options" if self.sections else "Options", list(records.values()))


class KdcmaeGroup(KdcmaeCommand, click.Group):
    """A group whose commands are :class:`KdcmaeCommand`."""

    command_class = KdcmaeCommand

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            self.fail_unknown(ctx, args[0])
        return super().resolve_command(ctx, args)

    def fail_unknown(self, ctx: click.Context, name: str) -> None:
        """Refuse the name of an unknown command, and suggest the nearest one."""
        names = self.list_commands(ctx)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Commands are {', '.join(names)}."
        ctx.fail(f"No such command '{name}'. {hint}")


class LazyGroup(KdcmaeGroup):
    """A group whose commands are imported on use.

    Args:
        modules: where each command is, by its name: in a module as ``command``, or in ``MODULE:FUNCTION``.
        default: the command that gets the arguments if none is named; its help is the group's.
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
        module, _, function = self._modules[cmd_name].partition(":")
        command = getattr(import_module(module), function or "command")
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        default = self._default_command(ctx)
        first = next((arg for arg in args if arg != "--traceback"), "")
        # The shell may complete the first word to a command or to an option of the default command.
        completing = ctx.resilient_parsing and not args
        if default is not None and not completing and first not in {*self._modules, *ctx.help_option_names}:
            self._refuse_misspelt(ctx, default, first)
            args = [self._default or "", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and the options of the default command."""
        items = super().shell_complete(ctx, incomplete)
        default = self._default_command(ctx)
        if default is not None:
            with click.Context(default, parent=ctx, resilient_parsing=True) as default_ctx:
                items += default.shell_complete(default_ctx, incomplete)
        return list({item.value: item for item in items}.values())

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        default = self._default_command(ctx)
        if default is None:
            super().format_help(ctx, formatter)
            return
        with click.Context(default, info_name=ctx.info_name, **default.context_settings) as default_ctx:
            default.format_help(default_ctx, formatter)
        self.format_commands(ctx, formatter)

    def _default_command(self, ctx: click.Context) -> click.Command | None:
        return None if self._default is None else self.get_command(ctx, self._default)

    def _refuse_misspelt(self, ctx: click.Context, default: click.Command, name: str) -> None:
        """Refuse a misspelt command, before it becomes an argument of the default command."""
        if not name or name.startswith("-") or os.path.exists(name) or ctx.resilient_parsing:
            return
        takes_words = any(isinstance(parameter, click.Argument) for parameter in default.params)
        if not takes_words or difflib.get_close_matches(name, self.list_commands(ctx), n=1):
            self.fail_unknown(ctx, name)
