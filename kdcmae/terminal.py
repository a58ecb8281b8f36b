"""Tables and progress bars as plain text.

click alone is needed, so that every command works on a device that has no more than numpy and one engine library.
``click.echo`` drops the styles where the output is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import click

__all__ = ["bar", "progress_bar", "table"]

_GAP = "  "


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Collection[int] = ()) -> str:
    """Text of a table, each of its columns as wide as its widest cell.

    Args:
        head: names of the columns; without names where empty.
        rows: cells, which may be styled.
        title: a line above; none where empty.
        right: numbers of the columns that are flush right.
    """
    lines = [list(row) for row in rows]
    if head:
        lines.insert(0, [click.style(name, bold=True) for name in head])
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    if head:
        lines.insert(1, ["-" * width for width in widths])
    shown = [click.style(title, bold=True)] if title else []
    for line in lines:
        cells = (_filled(cell, widths[n], right=n in right) for n, cell in enumerate(line))
        shown.append(_GAP.join(cells).rstrip())
    return "\n".join(shown)


def bar(share: float, width: int = 20) -> str:
    """A share of 1 as a bar of at most ``width`` characters."""
    return "#" * round(share * width)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, and the label alone where that is no terminal; call what this gives once per step."""
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as shown:
        yield lambda: shown.update(1)


def _width(cell: str) -> int:
    return len(click.unstyle(cell))


def _filled(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(cell))
    return f"{space}{cell}" if right else f"{cell}{space}"
