"""Options and output shared by the commands whose report has a part of the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdcmae.bench.report.files import RESULTS, write_json
from kdcmae.cli.common import json_option, note, print_json

if TYPE_CHECKING:
    from kdcmae.bench.report.publishing import Section

__all__ = ["publish", "publishing_options", "report_file"]

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT = Path()  # of --readme without a value


def publishing_options(output: str) -> Callable[[Command], Command]:
    """``--output``, ``--readme`` and ``--json``.

    Args:
        output: name of the JSON file in the folder of results, for the help text.
    """
    file = click.Path(dir_okay=False, path_type=Path)

    def with_options(command: Command) -> Command:
        for option in (
            json_option,
            click.option(
                "--readme",
                type=file,
                is_flag=False,
                flag_value=_DEFAULT,
                metavar="[FILE]",
                help="Also write the tables between their markers in FILE; by default in docs/measured.md where there "
                "is one, or else in README.md.",
            ),
            click.option("--output", type=file, help="File of the JSON.", show_default=str(RESULTS / output)),
        ):
            command = option(command)
        return command

    return with_options


def report_file(output: Path | None, name: str) -> Path:
    """The JSON file: the one that was asked for, or one of this name in the folder of results."""
    return output or RESULTS / name


def publish(section: Section, document: dict[str, Any], *, output: Path, readme: Path | None, as_json: bool) -> None:
    """Write a report, put its tables into the documentation where that is asked for, and print it or them.

    Args:
        section: shows the report.
        document: the report.
        output: the JSON file.
        readme: file with the section's markers.
        as_json: print one JSON object instead of the tables.

    Raises:
        ConfigError: the file does not exist or does not have the markers.
    """
    from kdcmae.bench.report.publishing import default_file
    from kdcmae.bench.report.terminal import print_blocks

    write_json(document, output)
    if readme is not None:
        file = default_file() if readme == _DEFAULT else readme
        note(f"{file}: {'updated' if section.write(file, document) else 'up to date'}")
    if as_json:
        print_json(document)
    else:
        print_blocks(section.render(document))
