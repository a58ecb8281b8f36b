"""Tables and paragraphs as Markdown, and their place between two markers of a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdcmae.bench.report.table import Block, Table
from kdcmae.errors import ConfigError

__all__ = ["render_markdown", "replace_between"]


def render_markdown(blocks: Iterable[Block]) -> str:
    """Paragraphs and tables, a blank line apart; a table's title stands above it."""
    return "\n\n".join("\n".join(_lines(block)) if isinstance(block, Table) else block for block in blocks)


def _lines(table: Table) -> Iterable[str]:
    if table.title:
        yield from (f"{table.title}:", "")
    yield _row(table.heads)
    yield _row("---" if column.align == "left" else "---:" for column in table.columns)
    yield from map(_row, table.texts)


def _row(cells: Iterable[str]) -> str:
    """A row; a bar in a cell stays a bar."""
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
