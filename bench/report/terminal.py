"""A benchmark's report on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kdcmae.bench.report.records import Report
from kdcmae.bench.report.tables import Table, conditions, remarks, tables
from kdcmae.terminal import say, style, table

__all__ = ["print_report", "print_tables"]

_COLOURS = {
    "faster": "green",
    "slower": "red",
    "no difference": "yellow",
    "unstable": "yellow",
    "failed": "red",
    "not measured": "yellow",
    "FAILED": "red",
    "hold": "green",
    "does not hold": "red",
    "cannot be told": "yellow",
}
_WORDS = re.compile(rf"({'|'.join(_COLOURS)})$")


def print_report(report: Report) -> None:
    """Print what was measured, under which conditions, and what was not."""
    say("\n".join(conditions(report)))
    print_tables(tables(report))
    for line in remarks(report):
        say(line)


def print_tables(shown: Iterable[Table]) -> None:
    """Print tables of texts, with colours for what is good or bad news."""
    for one in shown:
        rows = ([first, *map(_coloured, rest)] for first, *rest in one.rows)
        say(table(one.head, rows, title=one.title, right=range(1, len(one.head))))


def _coloured(cell: str) -> str:
    return _WORDS.sub(lambda found: style(found[1], _COLOURS[found[1]]), cell)
