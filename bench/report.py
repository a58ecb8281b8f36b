"""A benchmark's report on the terminal."""

from __future__ import annotations

import re

import click

from kdcmae.bench.schema import Report
from kdcmae.bench.tables import conditions, remarks, tables
from kdcmae.terminal import table

__all__ = ["print_report"]

_COLOURS = {
    "faster": "green",
    "slower": "red",
    "no difference": "yellow",
    "unstable": "yellow",
    "failed": "red",
    "not measured": "yellow",
    "FAILED": "red",
}
_WORDS = re.compile(rf"({'|'.join(_COLOURS)})$")


def print_report(report: Report) -> None:
    """Print what was measured, under which conditions, and what was not."""
    click.echo("\n".join(conditions(report)))
    for one in tables(report):
        rows = ([first, *map(_coloured, rest)] for first, *rest in one.rows)
        click.echo(table(one.head, rows, title=one.title, right=range(1, len(one.head))))
    for line in remarks(report):
        click.echo(line)


def _coloured(cell: str) -> str:
    return _WORDS.sub(lambda found: click.style(found[1], fg=_COLOURS[found[1]]), cell)
