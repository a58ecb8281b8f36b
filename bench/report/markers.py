"""Markdown: rows of tables, and text between two markers of a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdcmae.errors import ConfigError

__all__ = ["replace_between", "table_row"]


def replace_between(path: Path, begin: str, end: str, text: str) -> bool:
    """Rewrite what lies between two markers.

    Args:
        path: the file.
        begin, end: the markers, once each, in this order.
        text: what goes between them, a blank line apart.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: the markers are not there once each, in order.
    """
    old = path.read_text(encoding="utf-8")
    before, found_begin, rest = old.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in before + after:
        raise ConfigError(f"{path} needs the lines '{begin}' and '{end}' once each, in this order")
    new = f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
    if new != old:
        path.write_text(new, encoding="utf-8")
    return new != old


def table_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table; a bar in a cell stays a bar."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
