"""Where a report goes, shared by the commands that have one table for the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcmae.bench.report.files import write_json
from kdcmae.bench.report.markers import replace_between
from kdcmae.cli.common import note, print_json
from kdcmae.terminal import say

__all__ = ["publish"]


def publish(
    report: dict[str, Any], tables: str, *, output: Path, readme: Path | None, markers: tuple[str, str], as_json: bool
) -> None:
    """Write a report, put its tables into the README where that is asked for, and print it or them.

    Args:
        report: as plain data.
        tables: the same as Markdown.
        output: the JSON file.
        readme: what the tables go to, between the markers.
        markers: begin and end.
        as_json: print one JSON object instead of the tables.

    Raises:
        ConfigError: the file does not have the markers.
    """
    write_json(report, output)
    if readme is not None:
        note(f"{readme}: {'updated' if replace_between(readme, *markers, tables) else 'up to date'}")
    if as_json:
        print_json(report)
    else:
        say(tables)
