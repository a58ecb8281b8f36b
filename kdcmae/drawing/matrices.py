"""Squares of cells between every two of some labels, as SVG: agreement and confusion."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kdcmae.drawing.charts import CHARACTER, cut, svg, svg_text
from kdcmae.drawing.markup import Html

__all__ = ["MOST_CELLS", "confusion", "matrix"]

MOST_CELLS = 30
"""Classes whose confusion can be read cell by cell, names and counts beside each other."""


def matrix(title: str, labels: Sequence[str], cells: Sequence[Sequence[tuple[str, float | None] | None]]) -> Html:
    """A square of cells between every two of the labels.

    Args:
        title: said to screen readers.
        labels: of rows and columns; columns carry the rows' numbers.
        cells: per row and column a text (lines separated by a line feed) and how bad it is, from 0 to 1, or None where
            nothing is expected of it; None for an empty cell.
    """
    side, head = 52, 20
    names = [cut(f"{index + 1}  {label}", 44) for index, label in enumerate(labels)]
    left = 10 + CHARACTER * max(map(len, names), default=0)
    parts = [svg_text(left + (index + 0.5) * side, 13, str(index + 1), "value middle") for index in range(len(labels))]
    for row, (label, found) in enumerate(zip(labels, cells, strict=True)):
        top = head + row * side
        parts.append(svg_text(0, top + side / 2 + 4, names[row]))
        for column, cell in enumerate(found):
            if cell is None:
                continue
            text, badness = cell
            x = left + column * side
            said = escape(f"{label} and {labels[column]}: {text}".replace("\n", ", "))
            place = f'x="{x}" y="{top}" width="{side - 2}" height="{side - 2}"'
            parts.append(f'<g><title>{said}</title><rect class="{"track" if badness is None else "kept"}" {place}/>')
            if badness:
                parts.append(f'<rect class="lost" style="opacity:{min(1.0, badness):.2f}" {place}/>')
            rows = text.split("\n")
            for index, line in enumerate(rows):
                at = top + side / 2 + 3 + 13 * (index - (len(rows) - 1) / 2)
                parts.append(svg_text(x + (side - 2) / 2, at, line, "cell middle"))
            parts.append("</g>")
    return svg(title, left + side * len(labels), head + side * len(labels), parts, fixed=True)


def confusion(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Confusion matrix: a row per true class, a column per predicted one, coloured by its share of the row.

    Args:
        title: said to screen readers.
        labels: a name per class; columns carry the rows' numbers.
        counts: (C, C) clips.
    """
    side, head = 34, 20
    names = [cut(f"{index + 1}  {label}", 26) for index, label in enumerate(labels)]
    left = 10 + CHARACTER * max(map(len, names), default=0)
    parts = [svg_text(left + (index + 0.5) * side, 13, str(index + 1), "tick middle") for index in range(len(labels))]
    for row, label in enumerate(labels):
        top, clips = head + row * side, sum(counts[row]) or 1
        parts.append(svg_text(0, top + side / 2 + 4, names[row]))
        for column, count in enumerate(counts[row]):
            x, share = left + column * side, count / clips
            said = escape(f"{label}, predicted {labels[column]}: {count} clips, {share:.0%}")
            parts.append(
                f'<g><title>{said}</title><rect class="track" x="{x}" y="{top}" width="{side - 2}" '
                f'height="{side - 2}"/><rect class="heat" style="opacity:{share:.2f}" x="{x}" y="{top}" '
                f'width="{side - 2}" height="{side - 2}"/>'
            )
            if count:
                kind = "cell middle on-heat" if share > 0.5 else "cell middle"
                parts.append(svg_text(x + (side - 2) / 2, top + side / 2 + 3, str(count), kind))
            parts.append("</g>")
    return svg(title, left + side * len(labels), head + side * len(labels), parts, fixed=True)
