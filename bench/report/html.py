"""Tables as HTML, and the colours that stand for precisions on every page of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable

from kdcmae.bench.report.table import UNKNOWN, Cell, Table
from kdcmae.drawing import markup
from kdcmae.drawing.markup import Html, legend, section, tag

__all__ = ["html_table", "precision_colour", "precision_legend", "table_section"]

_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")
_OTHERS = "others"


def table_section(shown: Table) -> Html:
    """A table as a part of a page, under its title."""
    return section(shown.title, html_table(shown), wide=True)


def html_table(shown: Table) -> Html:
    """A table that becomes a list of cards on a phone."""
    heads = (f"{column.head}#" if column.align == "right" else column.head for column in shown.columns)
    return markup.table(heads, ([_cell(cell) for cell in row] for row in shown.cells), cards=True)


def _cell(cell: Cell) -> str:
    if cell.text == UNKNOWN:
        return ""
    return tag("span", cell.text, class_=cell.tone) if cell.tone else cell.text


def precision_colour(computes_in: str) -> int:
    """Number of the page's colour for the precisions of a subject: one per precision, the others together."""
    return next((index for index, name in enumerate(_PRECISIONS) if name in computes_in), len(_PRECISIONS))


def precision_legend(computed_in: Iterable[str]) -> Html:
    """Legend of the colours that these subjects have."""
    colours = sorted(set(map(precision_colour, computed_in)))
    return legend({index: (*_PRECISIONS, _OTHERS)[index] for index in colours})
