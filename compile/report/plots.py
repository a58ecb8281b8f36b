"""Small SVG charts that take the page's width and colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdcmae.drawing.markup import Html, tag

__all__ = ["Bar", "Point", "bars", "log_bars", "scatter"]

_ROW = 40  # pixels: a line of text and a bar below it
_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: its label, its value, the value as text, and a limit to mark."""

    label: str
    value: float
    text: str
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a scatter plot."""

    label: str
    x: float
    y: float


def bars(rows: Sequence[Bar]) -> Html:
    """Horizontal bars from zero."""
    largest = max((row.value for row in rows), default=0.0) or 1.0
    return _drawn(rows, [row.value / largest for row in rows], [None] * len(rows))


def log_bars(rows: Sequence[Bar]) -> Html:
    """Horizontal bars over a logarithmic axis, each with its limit; zero is drawn as no bar."""
    values = [value for row in rows for value in (row.value, row.limit) if value]
    low = math.floor(math.log10(min(values, default=1.0))) - 1
    high = math.ceil(math.log10(max(values, default=10.0)))

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        return max(0.0, (math.log10(value) - low) / max(high - low, 1)) if value else 0.0

    return _drawn(rows, [place(row.value) or 0.0 for row in rows], [place(row.limit) for row in rows])


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Html:
    """Labelled points over two axes that start near the data."""
    (left, right), (bottom, top) = _span([point.x for point in points]), _span([point.y for point in points])

    def place(point: Point) -> tuple[float, float]:
        x = _MARGIN + (point.x - left) / (right - left) * (_WIDTH - 2 * _MARGIN)
        return x, _HEIGHT - _MARGIN - (point.y - bottom) / (top - bottom) * (_HEIGHT - 2 * _MARGIN)

    ends = {"x1": str(_MARGIN), "y1": str(_HEIGHT - _MARGIN), "class_": "axis"}
    parts = [
        tag("line", **ends, x2=str(_WIDTH - _MARGIN), y2=str(_HEIGHT - _MARGIN)),
        tag("line", **ends, x2=str(_MARGIN), y2=str(_MARGIN)),
        _text(f"{x_title}: {left:.4g} to {right:.4g}", _MARGIN, _HEIGHT - 16, "soft"),
        _text(f"{y_title}: {bottom:.4g} to {top:.4g}", _MARGIN, 24, "soft"),
    ]
    for point in points:
        x, y = place(point)
        anchor = "end" if x > _WIDTH / 2 else "start"
        parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="5", class_="point"))
        offset = -9 if anchor == "end" else 9
        parts.append(tag("text", point.label, x=f"{x + offset:.1f}", y=f"{y - 7:.1f}", text_anchor=anchor))
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")


def _drawn(rows: Sequence[Bar], lengths: Sequence[float], limits: Sequence[float | None]) -> Html:
    parts: list[Html] = []
    for index, (row, length, limit) in enumerate(zip(rows, lengths, limits, strict=True)):
        top = index * _ROW
        over = row.limit is not None and row.value > row.limit
        parts.append(_text(row.label, 0, top + 14))
        parts.append(tag("text", row.text, x="100%", y=str(top + 14), text_anchor="end", class_="soft"))
        parts.append(tag("rect", x="0", y=str(top + 20), width="100%", height="10", rx="3", class_="track"))
        kind = "bad" if over else "bar"
        parts.append(tag("rect", x="0", y=str(top + 20), width=_percent(length), height="10", rx="3", class_=kind))
        if limit is not None:
            x = _percent(limit)
            parts.append(tag("line", x1=x, x2=x, y1=str(top + 17), y2=str(top + 33), class_="limit"))
    return tag("svg", *parts, height=str(_ROW * len(rows)), role="img")


def _text(content: str, x: float, y: float, kind: str = "") -> Html:
    return tag("text", content, x=str(x), y=str(y), **({"class_": kind} if kind else {}))


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room
