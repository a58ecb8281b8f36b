"""Charts as pictures of pixels, for PNG files and TensorBoard; pages draw theirs with :mod:`kdcmae.drawing.charts`.

Pillow draws them. Its own typeface has only Latin letters; others appear as boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kdcmae.drawing.charts import Line, cut, number, ticks
from kdcmae.drawing.matrices import MOST_CELLS
from kdcmae.drawing.timelines import Timeline, clock, time_ticks

__all__ = ["confusion_figure", "lines_figure", "timeline_figure"]

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

_PAPER, _INK, _SOFT, _GRID = (255, 255, 255), (22, 32, 44), (85, 96, 110), (223, 227, 232)
_HEAT = (31, 95, 196)
_COLOURS = ((47, 111, 222), (224, 118, 42), (42, 157, 99), (176, 74, 194), (194, 59, 78), (15, 155, 176))
_SMALL, _LARGE = 13, 17  # pixels of the letters
_LABEL = 26  # characters


def confusion_figure(title: str, labels: Sequence[str], counts: NDArray[np.integer[Any]]) -> Picture:
    """Confusion matrix: a row per true class, a column per predicted one, darker for a larger share of the row.

    Args:
        counts: (C, C) clips.

    Returns:
        Names and counts of as many classes as have room; of more, only the shares, of up to 1024 pixels a side.
    """
    classes = len(labels)
    named = classes <= MOST_CELLS
    side = 30 if named else max(1, 900 // classes)
    left, top = (220 if named else 20), 64
    canvas = Image.new("RGB", (left + side * classes + 20, top + side * classes + 20), _PAPER)
    draw, small, large = ImageDraw.Draw(canvas), ImageFont.load_default(_SMALL), ImageFont.load_default(_LARGE)
    draw.text((12, 10), title, fill=_INK, font=large)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    square = _blended(shares).repeat(side, axis=0).repeat(side, axis=1)
    canvas.paste(Image.fromarray(square), (left, top))
    if not named:
        draw.text((12, 38), f"down: {classes} true classes; across: predicted", fill=_SOFT, font=small)
        return np.asarray(canvas)
    for row, label in enumerate(labels):
        middle = top + (row + 0.5) * side
        draw.text((left - 8, middle), f"{cut(label, _LABEL)}  {row + 1}", fill=_INK, font=small, anchor="rm")
        draw.text((left + (row + 0.5) * side, top - 10), str(row + 1), fill=_SOFT, font=small, anchor="mm")
        for column, count in enumerate(counts[row].tolist()):
            ink = _PAPER if shares[row, column] > 0.5 else _INK
            if count:
                place = (left + (column + 0.5) * side, middle)
                draw.text(place, str(count), fill=ink, font=small, anchor="mm")
    return np.asarray(canvas)


def lines_figure(title: str, series: Sequence[Line], *, x_label: str, y_label: str) -> Picture:
    """Lines over numbers such as epochs, with a legend; points that are not finite are left out.

    Args:
        x_label, y_label: of the axes, units included.
    """
    width, height, left, right, bottom = 760, 420, 70, 20, 50
    top = 44 + 18 * len(series)
    canvas = Image.new("RGB", (width, height + top), _PAPER)
    draw, small = ImageDraw.Draw(canvas), ImageFont.load_default(_SMALL)
    draw.text((12, 10), title, fill=_INK, font=ImageFont.load_default(_LARGE))
    drawn = [[point for point in line.points if all(map(math.isfinite, point))] for line in series]
    (x_low, x_high), (y_low, y_high) = (_span([point[axis] for line in drawn for point in line]) for axis in (0, 1))
    x_scale, y_scale = (width - left - right) / (x_high - x_low), (height - bottom - 20) / (y_high - y_low)
    base = top + height - bottom

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - x_low) * x_scale, base - (y - y_low) * y_scale

    for value in ticks(y_low, y_high):
        y = place(x_low, value)[1]
        draw.line([(left, y), (width - right, y)], fill=_GRID)
        draw.text((left - 8, y), number(value), fill=_SOFT, font=small, anchor="rm")
    for value in ticks(x_low, x_high):
        draw.text((place(value, y_low)[0], base + 14), number(value), fill=_SOFT, font=small, anchor="mm")
    draw.text((left, base + 26), f"across: {x_label};  up: {y_label}", fill=_SOFT, font=small)
    for index, (line, points) in enumerate(zip(series, drawn, strict=True)):
        colour, at = _COLOURS[index % len(_COLOURS)], 40 + 18 * index
        draw.rectangle([14, at, 24, at + 10], fill=colour)
        draw.text((32, at + 5), line.label, fill=_SOFT, font=small, anchor="lm")
        places = [place(*point) for point in points]
        draw.line(places, fill=colour, width=2)
        for x, y in places:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
    return np.asarray(canvas)


def timeline_figure(timeline: Timeline) -> Picture:
    """A clip's scores over time: a row per class, darker for a higher score from 0 to 1."""
    left, width, row, top = 220, 900, 30, 70
    bottom = top + row * len(timeline.labels)
    canvas = Image.new("RGB", (left + width + 40, bottom + 40), _PAPER)
    draw, small = ImageDraw.Draw(canvas), ImageFont.load_default(_SMALL)
    draw.text((12, 10), timeline.title, fill=_INK, font=ImageFont.load_default(_LARGE))
    said = f"{timeline.model}: {clock(timeline.duration_s)} in {timeline.windows} windows; darker: higher score, 0 to 1"
    draw.text((12, 38), said, fill=_SOFT, font=small)
    edges = [left + round(width * edge / timeline.duration_s) for edge in timeline.edges_s]
    for place, label in enumerate(timeline.labels):
        at = top + row * place
        draw.text((left - 8, at + row / 2), cut(label, _LABEL), fill=_INK, font=small, anchor="rm")
        colours = _blended(timeline.scores[:, place]).tolist()
        for start, end, colour in zip(edges[:-1], edges[1:], colours, strict=True):
            draw.rectangle([start, at + 3, max(start, end - 1), at + row - 3], fill=tuple(colour))
        draw.rectangle([left - 1, at + 2, left + width, at + row - 2], outline=_GRID)
    for seconds in time_ticks(timeline.duration_s, 9):
        x = left + width * seconds / timeline.duration_s
        draw.line([(x, bottom), (x, bottom + 5)], fill=_SOFT)
        draw.text((x, bottom + 16), clock(seconds).removesuffix(".0"), fill=_SOFT, font=small, anchor="mm")
    return np.asarray(canvas)


def _blended(shares: NDArray[np.floating[Any]]) -> Picture:
    """(..., 3), from the paper's to the heat's colour for shares of 1."""
    paper, heat = np.array(_PAPER, dtype=np.float64), np.array(_HEAT, dtype=np.float64)
    return (paper + shares[..., None] * (heat - paper)).round().astype(np.uint8)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest value; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)
