"""Tables as HTML, and the colours that stand for precisions on every page of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress

from kdcmae.bench.report.table import UNKNOWN, Cell, Table
from kdcmae.drawing import markup
from kdcmae.drawing.markup import Html, legend, section, tag
from kdcmae.runtime.precisions import PRECISIONS

__all__ = ["html_table", "precision_colour", "precision_legend", "table_section"]

_COLOURED = (*PRECISIONS, "others")


def table_section(shown: Table) -> Html:
    """A table as a part of a page, under its title."""
    return section(shown.title, html_table(shown), wide=True)


def html_table(shown: Table) -> Html:
    """A table that becomes a list of cards on a phone; columns of which no value is known are left out."""
    known = [any(cell.text != UNKNOWN for cell in cells) for cells in zip(*shown.cells, strict=True)]
    heads = [f"{column.head}#" if column.align == "right" else column.head for column in shown.columns]
    rows = ([_cell(cell) for cell in compress(row, known)] for row in shown.cells)
    return markup.table(compress(heads, known), rows, cards=True)


def _cell(cell: Cell) -> str:
    if cell.text == UNKNOWN:
        return ""
    return tag("span", cell.text, class_=cell.tone) if cell.tone else cell.text


def precision_colour(computes_in: str) -> int:
    """Number of the page's colour for the narrowest precision that a subject computes in, or for none of them."""
    return _COLOURED.index(next((name for name in reversed(PRECISIONS) if name in computes_in), "others"))


def precision_legend(computed_in: Iterable[str]) -> Html:
    """Legend of the colours that these subjects have."""
    colours = sorted(set(map(precision_colour, computed_in)))
    return legend({index: _COLOURED[index] for index in colours})
