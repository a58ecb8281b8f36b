"""Charts as SVG, for the pages of :mod:`kdcmae.drawing.markup`.

Every text is escaped here. Charts are drawn in a narrow coordinate system and scaled, so that they stay readable on a
phone; colours are CSS classes, so that the page's style sheet can change them for a dark screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from kdcmae.drawing.markup import COLOURS, Html

__all__ = [
    "CHARACTER",
    "Bar",
    "Line",
    "Point",
    "bars",
    "cut",
    "lines",
    "number",
    "scatter",
    "spectrogram",
    "stacked",
    "svg",
    "svg_text",
    "ticks",
]

CHARACTER = 8
"""Approximate width of a character, to reserve room for the text behind a bar."""

_WIDTH = 440
_ROW = 36
_PLOT_HEIGHT = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 40


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar.

    Args:
        label: what it stands for.
        value: its length.
        high: end of the whisker, such as a 99th percentile; None for no whisker.
        note: text after the value.
        colour: which of the page's colours; bars of one kind share a colour.
        text: the value as it is shown; empty for four digits and the chart's unit.
        limit: marked by a line; a bar beyond it is drawn as bad. None for no mark.
    """

    label: str
    value: float
    high: float | None = None
    note: str = ""
    colour: int = 0
    text: str = ""
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart: its points from left to right."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One labelled point; ``marked`` points are joined by a line, such as a Pareto front."""

    label: str
    x: float
    y: float
    marked: bool = False


def number(value: float) -> str:
    """Four significant digits, without an exponent and without trailing zeros."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def bars(title: str, rows: Sequence[Bar], *, unit: str, logarithmic: bool = False) -> Html:
    """Horizontal bars, each with its label above and its value behind it.

    Args:
        title: for screen readers.
        rows: from top to bottom.
        logarithmic: the axis begins a power of ten below the smallest value; zero has no bar.
    """
    marks = [value for row in rows for value in (row.value, row.high, row.limit) if value]
    low = math.floor(math.log10(min(marks, default=1.0))) - 1 if logarithmic else 0.0

    def placed(value: float | None) -> float:
        return max(0.0, math.log10(value) - low) if value and logarithmic else value or 0.0

    texts = [(row.text or f"{number(row.value)} {unit}") + (f", {row.note}" if row.note else "") for row in rows]
    longest = max((placed(mark) for mark in marks), default=1.0) or 1.0
    scale = (_WIDTH - 16 - CHARACTER * max(map(len, texts), default=0)) / longest
    parts = []
    for index, (row, shown) in enumerate(zip(rows, texts, strict=True)):
        top, length = index * _ROW, placed(row.value) * scale
        end = max(length, placed(row.high) * scale, placed(row.limit) * scale)
        over = row.limit is not None and row.value > row.limit
        colour = "bad" if over else f"c{row.colour % COLOURS}"
        parts.append(
            f"<g><title>{escape(f'{row.label}: {shown}')}</title>{svg_text(0, top + 12, row.label)}"
            f'<rect class="{colour}" x="0" y="{top + 17}" width="{length:.1f}" height="12" rx="2"/>'
        )
        if row.high is not None:
            middle = top + 23
            parts.append(f'<path class="whisker" d="M{length:.1f} {middle}H{end:.1f}M{end:.1f} {middle - 4}v8"/>')
        if row.limit is not None:
            parts.append(f'<path class="limit" d="M{placed(row.limit) * scale:.1f} {top + 14}v18"/>')
        parts.append(f"{svg_text(end + 6, top + 27, shown, 'value')}</g>")
    return svg(title, _WIDTH, len(rows) * _ROW, parts)


def stacked(title: str, rows: Mapping[str, Mapping[str, float]], *, unit: str) -> Html:
    """Horizontal bars made of stages, with a legend.

    Args:
        title: for screen readers.
        rows: stages by name and length, by the label of the bar.
    """
    stages = list(dict.fromkeys(stage for row in rows.values() for stage in row))
    totals = [sum(row.values()) for row in rows.values()]
    room = 16 + CHARACTER * max((len(f"{number(total)} {unit}") for total in totals), default=0)
    scale = (_WIDTH - room) / (max(totals, default=1.0) or 1.0)
    legend, height = _legend(stages)
    parts = [legend]
    for index, (label, row) in enumerate(rows.items()):
        top, left = height + index * _ROW, 0.0
        parts.append(svg_text(0, top + 12, label))
        for stage, value in row.items():
            width, said = value * scale, escape(f"{label}, {stage}: {number(value)} {unit}")
            colour = f"c{stages.index(stage) % COLOURS}"
            parts.append(
                f'<rect class="{colour}" x="{left:.1f}" y="{top + 17}" width="{width:.1f}" height="12">'
                f"<title>{said}</title></rect>"
            )
            left += width
        parts.append(svg_text(left + 6, top + 27, f"{number(sum(row.values()))} {unit}", "value"))
    return svg(title, _WIDTH, height + len(rows) * _ROW, parts)


def lines(title: str, series: Sequence[Line], *, x_label: str, y_label: str) -> Html:
    """Lines over numbers such as batch sizes, from zero upwards, with a legend.

    Args:
        title: for screen readers.
        x_label, y_label: of the axes, units included.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    legend, top = _legend([line.label for line in series])
    whole = all(float(x).is_integer() for x in xs)
    axes = _Axes((min(xs, default=0), max(xs, default=1)), (0.0, max(ys, default=1)), top, whole=whole)
    parts = [legend, *axes.frame(x_label, y_label)]
    for index, line in enumerate(series):
        colour = index % COLOURS
        places = [axes.place(x, y) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="line s{colour}" d="M{path}"/>')
        for (x, y), (left, at) in zip(line.points, places, strict=True):
            said = escape(f"{line.label}: {number(y)} at {number(x)}")
            parts.append(
                f'<circle class="c{colour}" cx="{left:.1f}" cy="{at:.1f}" r="3.5"><title>{said}</title></circle>'
            )
    return svg(title, _WIDTH, top + _PLOT_HEIGHT, parts)


def scatter(title: str, points: Sequence[Point], *, x_label: str, y_label: str) -> Html:
    """Numbered points with a legend of their names; marked points are joined.

    Args:
        title: for screen readers.
        x_label, y_label: of the axes, units included.
    """
    axes = _Axes(_span([point.x for point in points], zero=True), _span([point.y for point in points]), 0)
    parts = axes.frame(x_label, y_label)
    front = sorted(axes.place(point.x, point.y) for point in points if point.marked)
    if len(front) > 1:
        parts.append(f'<path class="front" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in front)}"/>')
    places = [axes.place(point.x, point.y) for point in points]
    labels = _apart(places, [str(index + 1) for index in range(len(points))])
    for index, (point, (left, top), (x, y)) in enumerate(zip(points, places, labels, strict=True)):
        said = escape(f"{point.label}: {number(point.x)}, {number(point.y)}")
        pointer = f'<path class="grid" d="M{left:.1f} {top:.1f}L{x + 4:.1f} {y - 4:.1f}"/>' if abs(y - top) > 20 else ""
        parts.append(
            f'<g><title>{said}</title>{pointer}<circle class="c{index % COLOURS}" cx="{left:.1f}" cy="{top:.1f}" '
            f'r="6"/>{svg_text(x, y, str(index + 1), "value")}</g>'
        )
    for index, point in enumerate(points):
        parts.append(svg_text(0, _PLOT_HEIGHT + 16 * (index + 1), f"{index + 1}  {point.label}", "value"))
    return svg(title, _WIDTH, _PLOT_HEIGHT + 16 * len(points) + 8, parts)


def spectrogram(title: str, source: str, *, seconds: float, marks: Mapping[str, float]) -> Html:
    """A picture of sound between its axes: time to the right, frequency upwards.

    Args:
        title: for screen readers.
        source: of the picture, such as a data URI; it fills the plot.
        marks: positions on the frequency axis, from 0 at its foot to 1, by their text.
    """
    width, height, left, top, foot = 344, 150, 42, 6, 30
    plot_width, plot_height = width - left - 10, height - top - foot
    bottom = top + plot_height
    parts = [
        f'<image href="{escape(source)}" x="{left}" y="{top}" width="{plot_width}" height="{plot_height}" '
        'preserveAspectRatio="none"/>'
    ]
    for text, share in marks.items():
        y = bottom - share * plot_height
        parts.append(f'<path class="grid" d="M{left - 4} {y:.1f}h4"/>{svg_text(left - 7, y + 4, text, "tick end")}')
    for value in ticks(0.0, seconds):
        x = left + value / seconds * plot_width
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(svg_text(x, bottom + 16, number(value), "tick middle"))
    parts.append(svg_text(width - 10, height - 2, "seconds", "tick end"))
    parts.append(svg_text(0, height - 2, "Hz", "tick"))
    return svg(title, width, height, parts, most=width)


class _Axes:
    """Maps values to positions in a plot that begins ``top`` below the chart's upper edge.

    ``whole`` values across, such as sizes of a batch, have whole numbers at their axis.
    """

    def __init__(self, x: tuple[float, float], y: tuple[float, float], top: int, *, whole: bool = False) -> None:
        self._x, self._y, self._top, self._whole = x, y, top, whole

    def place(self, x: float, y: float) -> tuple[float, float]:
        (x_low, x_high), (y_low, y_high) = self._x, self._y
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        height = _PLOT_HEIGHT - _TOP - _BOTTOM
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), self._top + _TOP + (1 - up) * height

    def frame(self, x_label: str, y_label: str) -> list[str]:
        """Grid lines with their values, and the names of the axes."""
        parts = []
        for value in ticks(*self._y):
            _, y = self.place(self._x[0], value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(svg_text(_LEFT - 6, y + 4, number(value), "tick end"))
        bottom = self._top + _PLOT_HEIGHT - _BOTTOM
        steps = ticks(*self._x)
        for value in filter(float.is_integer, steps) if self._whole else steps:
            x, _ = self.place(value, self._y[0])
            parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v5"/>')
            parts.append(svg_text(x, bottom + 17, number(value), "tick middle"))
        parts.append(svg_text(_LEFT, bottom + 34, f"across: {x_label};  up: {y_label}", "tick"))
        return parts


def _apart(points: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[tuple[float, float]]:
    """Positions of the texts of a plot's points, so that no text covers another text or a point.

    Each gets the first free place of those beside its point, above and below it, and farther below. If none is free,
    it is beside its point.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    places = []
    for (x, y), text in zip(points, texts, strict=True):
        width = CHARACTER * len(text)
        steps = [(9.0, 4.0), (-9.0 - width, 4.0), (-width / 2, -9.0)]
        steps += [(side - width / 2, 18.0 + 14 * row) for row in range(8) for side in (0, 10, -10)]
        for step_x, step_y in steps:
            left, bottom = x + step_x, y + step_y
            box = (left - 1, bottom - 10, left + width + 1, bottom + 1)
            inside = left >= _LEFT and box[2] <= _WIDTH and box[1] >= 0 and bottom <= _PLOT_HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            left, bottom = x + 9, y + 4
        taken.append((left - 1, bottom - 10, left + width + 1, bottom + 1))
        places.append((left, bottom))
    return places


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, top, right, bottom) share some of their area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def ticks(low: float, high: float) -> list[float]:
    """A handful of round values within a span."""
    if high <= low:
        return [float(low)]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(index * step) for index in range(first, last + 1)]


def _span(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """From the smallest to the largest value, or from zero, with a margin."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return (0.0 if zero else low - air), high + air


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """Coloured squares and names, one under the other, and their height."""
    parts = [
        f'<rect class="c{index % COLOURS}" x="0" y="{index * 17 + 2}" width="10" height="10" rx="2"/>'
        + svg_text(16, index * 17 + 11, name, "value")
        for index, name in enumerate(names)
    ]
    return "".join(parts), 17 * len(names) + 4


def cut(text: str, length: int) -> str:
    """A text of at most ``length`` characters; a longer text is cut and ends in an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def svg_text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def svg(title: str, width: int, height: int, parts: Iterable[str], *, fixed: bool = False, most: int = 0) -> Html:
    """One drawing; a fixed one keeps its size and scrolls where the screen is narrower.

    ``most`` is the largest width in pixels it is shown at; 0 for the style sheet's.
    """
    style = f' style="width:{width}px"' if fixed else f' style="max-width:{most}px"' if most else ""
    drawing = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {max(height, 1)}"{style}>'
        f"{''.join(parts)}</svg>"
    )
    return Html(f'<div class="scroll">{drawing}</div>' if fixed else drawing)
