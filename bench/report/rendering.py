"""Tables and paragraphs on the terminal, as Markdown and as HTML, and the colours of precisions on every page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from pathlib import Path

from kdcmae import terminal
from kdcmae.bench.report.table import UNKNOWN, Block, Cell, Table, Tone
from kdcmae.drawing import markup
from kdcmae.drawing.markup import Html, legend, tag
from kdcmae.errors import ConfigError
from kdcmae.runtime.precisions import PRECISIONS

__all__ = [
    "html_table",
    "precision_colour",
    "precision_legend",
    "print_blocks",
    "render_markdown",
    "replace_between",
]

_COLOURS: Mapping[Tone, str] = {"": "", "good": "green", "bad": "red", "idle": "yellow"}
_COLOURED = (*PRECISIONS, "others")


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print paragraphs and tables, with colours for good and bad news."""
    for block in blocks:
        terminal.say(_text(block) if isinstance(block, Table) else block)


def _text(shown: Table) -> str:
    rows = ([terminal.style(cell.text, _COLOURS[cell.tone]) for cell in row] for row in shown.cells)
    right = [index for index, column in enumerate(shown.columns) if column.align == "right"]
    return terminal.table(shown.heads, rows, title=shown.title, right=right)


def render_markdown(blocks: Iterable[Block]) -> str:
    """Paragraphs and tables, a blank line apart; a table's title stands above it."""
    return "\n\n".join("\n".join(_lines(block)) if isinstance(block, Table) else block for block in blocks)


def _lines(table: Table) -> Iterable[str]:
    if table.title:
        yield from (f"{table.title}:", "")
    yield _line(table.heads)
    yield _line("---" if column.align == "left" else "---:" for column in table.columns)
    yield from map(_line, table.texts)


def _line(cells: Iterable[str]) -> str:
    """A row; bars in cells are escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def replace_between(path: Path, begin: str, end: str, text: str) -> bool:
    """Rewrite what lies between two markers.

    Args:
        path: the file.
        begin, end: the markers, once each, in this order.
        text: what goes between them, a blank line apart.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: there is no such file, or the markers are not there once each, in order.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; name a file that has the lines '{begin}' and '{end}'")
    old = path.read_text(encoding="utf-8")
    before, found_begin, rest = old.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in before + after:
        raise ConfigError(f"{path} needs the lines '{begin}' and '{end}' once each, in this order")
    new = f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
    if new != old:
        path.write_text(new, encoding="utf-8")
    return new != old


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


def precision_colour(computes_in: str | None) -> int:
    """Number of the page's colour for the narrowest precision that a subject computes in, or for none of them."""
    return _COLOURED.index(next((name for name in reversed(list(PRECISIONS)) if name in (computes_in or "")), "others"))


def precision_legend(computed_in: Iterable[str | None]) -> Html:
    """Legend of the colours that these subjects have."""
    colours = sorted(set(map(precision_colour, computed_in)))
    return legend({index: _COLOURED[index] for index in colours})
