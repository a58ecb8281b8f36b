"""A benchmark's report on the terminal."""

from __future__ import annotations

import re

from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

from kdcmae.bench.schema import Report
from kdcmae.bench.tables import conditions, remarks, tables

__all__ = ["print_report"]

_WIDTH = 160  # where the output is no terminal
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


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what was measured, under which conditions, and what was not.

    Args:
        report: of a benchmark.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print("\n".join(conditions(report)), markup=False, soft_wrap=True)
    for one in tables(report):
        shown = rich_table.Table(title=one.title, title_justify="left", box=None, pad_edge=False, title_style="bold")
        for index, heading in enumerate(one.head):
            shown.add_column(heading, justify="right" if index else "left", overflow="fold")
        for first, *rest in one.rows:
            shown.add_row(escape(first), *(_coloured(escape(cell)) for cell in rest))
        console.print(shown)
    for line in remarks(report):
        console.print(escape(line), soft_wrap=True)


def _coloured(cell: str) -> str:
    return _WORDS.sub(lambda found: f"[{_COLOURS[found[1]]}]{found[1]}[/]", cell)
