"""A table as data: columns that say how their values read, and rows of values.

The terminal, Markdown and HTML have one renderer each in :mod:`kdcmae.bench.report.rendering`. They read values, units
and tones from here, so that none of them has to parse a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdcmae.bench.run.timing import Latency, SpeedRatio
from kdcmae.drawing.charts import number

__all__ = [
    "UNKNOWN",
    "Block",
    "Cell",
    "Column",
    "Table",
    "Tone",
    "fixed",
    "interval",
    "megabytes",
    "on_front",
    "percent",
    "table",
]

UNKNOWN = "-"
"""Text of a value that is not known."""

Tone = Literal["", "good", "bad", "idle"]
"""Whether a value is good news, bad news, or a reason for care."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value as text, with its tone."""

    text: str
    tone: Tone = ""


def _no_tone(_: Any) -> Tone:
    return ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column.

    Args:
        title: of its head.
        value: of one item of the table; None where it is not known.
        unit: of the values; empty for a name or a share.
        align: numbers stand flush right.
        text: of a known value.
        tone: of a known value.
    """

    title: str
    value: Callable[[Any], Any]
    unit: str = ""
    align: Literal["left", "right"] = "right"
    text: Callable[[Any], str] = str
    tone: Callable[[Any], Tone] = _no_tone

    @property
    def head(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def cell(self, value: Any) -> Cell:
        """A value as it is shown."""
        return Cell(text=UNKNOWN) if value is None else Cell(text=self.text(value), tone=self.tone(value))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values.

    Args:
        title: of the table; empty where a heading says it already.
        columns: the first names the rows.
        rows: as many values each; None where one is not known.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """Titles of the columns."""
        return tuple(column.head for column in self.columns)

    @property
    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows as they are shown."""
        return tuple(
            tuple(column.cell(value) for column, value in zip(self.columns, row, strict=True)) for row in self.rows
        )

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as text."""
        return tuple(tuple(cell.text for cell in row) for row in self.cells)


Block = str | Table
"""Parts of a report: paragraphs and tables."""


def table(title: str, columns: Sequence[Column], items: Iterable[Any]) -> Table:
    """A table with a row per item."""
    rows = tuple(tuple(column.value(item) for column in columns) for item in items)
    return Table(title=title, columns=tuple(columns), rows=rows)


def percent(digits: int = 1, *, unit: str = " %") -> Callable[[float], str]:
    """Format of a share: its per cent with so many decimals."""
    return lambda share: f"{100 * share:.{digits}f}{unit}"


def fixed(digits: int) -> Callable[[float], str]:
    """Format of a number: so many decimals."""
    return lambda value: f"{value:.{digits}f}"


def megabytes(digits: int = 0) -> Callable[[float], str]:
    """Format of a size in bytes: megabytes with so many decimals."""
    return lambda size: f"{size / 1e6:.{digits}f}"


def interval(value: Latency | SpeedRatio) -> str:
    """Format of a median latency in ms or of a ratio: the value and its 95 % interval in brackets."""
    if isinstance(value, Latency):
        return f"{number(value.p50_ms)} ({number(value.low_ms)}-{number(value.high_ms)})"
    return f"{value.ratio:.2f} ({value.low:.2f}-{value.high:.2f})"


def on_front(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which points no other point beats in one of two measures without losing in the other.

    Args:
        points: two measures each, less is better; None where they are not known, which is never on the front.
    """
    known = [point for point in points if point is not None]
    return [
        point is not None
        and not any(other[0] <= point[0] and other[1] <= point[1] and other != point for other in known)
        for point in points
    ]
