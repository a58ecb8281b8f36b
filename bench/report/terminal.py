"""Tables and paragraphs on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdcmae.bench.report.records import Report
from kdcmae.bench.report.summary import conditions, remarks, verdict
from kdcmae.bench.report.table import Block, Table, Tone
from kdcmae.bench.report.tables import models, tables
from kdcmae.terminal import say, style, table

__all__ = ["print_blocks", "print_report"]

_COLOURS: Mapping[Tone, str] = {"": "", "good": "green", "bad": "red", "idle": "yellow"}


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print paragraphs and tables, with colours for good and bad news."""
    for block in blocks:
        say(_text(block) if isinstance(block, Table) else block)


def _text(shown: Table) -> str:
    rows = ([style(cell.text, _COLOURS[cell.tone]) for cell in row] for row in shown.cells)
    right = [index for index, column in enumerate(shown.columns) if column.align == "right"]
    return table(shown.heads, rows, title=shown.title, right=right)


def print_report(report: Report) -> None:
    """Print the conditions of a benchmark, what was measured and what was not, and the verdict."""
    print_blocks([*conditions(report), *tables(report), *remarks(report)])
    for model in models(report):
        best = verdict(report, model)
        if best is not None:
            print_blocks([f"{model}: {best}" if model else str(best)])
