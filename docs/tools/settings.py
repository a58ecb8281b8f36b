"""Write docs/settings.md: every option of every command, and every setting of a training run.

Options come from the commands, settings from the dataclasses that hold them.

    python docs/tools/settings.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import click
from programs import EVERY

from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.report.table import Column, Table
from kdcmae.cli.commands import KdcmaeCommand
from kdcmae.training.catalogue import differences, settings_of, shown_value
from kdcmae.training.recipes import RECIPES, Stage

PAGE = Path(__file__).parents[1] / "settings.md"
_SHARED = {"traceback", "version", "help", "as_json"}
_DEFAULT = {("kdcmae-compile", "build"), ("kdcmae-bench", "run")}  # what these programs do without a command's name
_HEAD = """# Settings

Written by `python docs/tools/settings.py` from the commands and their dataclasses; a test fails when it is out of date.

Every command also takes `--help`, `--version` and `--traceback` (show where an error comes from). `--json` prints one
JSON object on stdout and nothing else there; progress and messages go to stderr.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | done, but a gate failed (parity, precision, accuracy), or a run ended in an error of its own |
| 2 | wrong use or bad input |
| 3 | something needed is missing on this machine (a library, a device) |
| 130 | interrupted |

| variable | meaning |
| --- | --- |
| `KDCMAE_CACHE` | folder of the engine cache; `~/.cache/kdcmae` where it is not set |
| `KDCMAE_CACHE_GB` | largest size of that cache in GB; 10 where it is not set |
| `KDCMAE_TUNE` | `off` does what `--tune off` does, for builds that must not depend on a measurement |
| `KDCMAE_TRACEBACK` | `1` does what `--traceback` does |
| `ONEDNN_MAX_CPU_ISA` | newest instructions that oneDNN (OpenVINO, PyTorch) and kdcmae may use, such as `AVX2` |
"""


def document() -> str:
    """The page."""
    return "\n".join([_HEAD, *_commands(), *_training()]).rstrip() + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    for path, command in EVERY.items():
        if isinstance(command, click.Group) or not isinstance(command, KdcmaeCommand):
            continue
        words = path[:-1] if path in _DEFAULT else path
        yield f"### {' '.join(words)}\n"
        yield _one_line(inspect.cleandoc(command.help or "").partition("\n\n")[0]) + "\n"
        yield from _options(command)


def _options(command: KdcmaeCommand) -> Iterator[str]:
    context = click.Context(command, **command.context_settings)
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    for name in _SHARED:
        options.pop(name, None)
    sections = {
        heading: [options.pop(name) for name in names if name in options] for heading, names in command.sections.items()
    }
    for heading, members in {**sections, "Option": list(options.values())}.items():
        if members:
            yield from _table((heading, "meaning"), [_option(option, context) for option in members])


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    assert record is not None, option.name
    return f"`{record[0]}`", record[1]


def _training() -> Iterator[str]:
    yield "## Training runs\n"
    yield "`--set KEY=VALUE` of `kdcmae pretrain`, `finetune` and `distill` sets any of these.\n"
    for stage in get_args(Stage):
        yield f"### Settings of kdcmae {stage}\n"
        settings = settings_of(stage)
        rows = [
            (
                f"`{setting.name}`",
                shown_value(setting.default) if setting.default is not None or "none" in setting.takes else "",
                setting.takes,
                f"{f'[{setting.unit}] ' if setting.unit else ''}{setting.meaning}",
            )
            for setting in settings
        ]
        yield from _table(("setting", "default", "values", "meaning"), rows)
    yield "### Recipes\n"
    recipes = [
        (
            f"`{name}`",
            recipe.about,
            " ".join(f"`{key}={shown_value(value)}`" for key, value in differences(recipe).items()),
        )
        for name, recipe in RECIPES.items()
    ]
    yield from _table(("recipe", "about", "sets"), recipes)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    columns = tuple(Column(title=head, value=str, align="left") for head in heads)
    yield render_markdown([Table(title="", columns=columns, rows=tuple(tuple(map(_one_line, row)) for row in rows))])
    yield ""


def _one_line(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


if __name__ == "__main__":
    PAGE.write_text(document(), encoding="utf-8")
    sys.stderr.write(f"{PAGE}\n")
