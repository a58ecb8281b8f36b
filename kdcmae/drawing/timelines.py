"""Scores of a clip's classes over time, as data for pictures and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from kdcmae.drawing.charts import Bar, bars
from kdcmae.drawing.markup import Html, page, section, table, tag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Timeline", "clock", "runs", "time_ticks"]

_CLASSES = 8  # most rows of a picture
_COLUMNS = 240  # of a picture; windows that share one show their highest score
_LISTED = 300  # rows of the page's table
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)

_WIDTH, _ROW, _STRIP, _AXIS = 440, 40, 20, 30  # of the page's drawing


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """The drawn data of a clip.

    Args:
        title: name of the clip.
        model: name of the model.
        windows: their number.
        duration_s: of the clip.
        labels: of the classes with the highest scores of all, at most eight, highest mean first.
        means: score of each of them, over the whole clip.
        edges_s: where columns of the picture begin and end, one more than there are columns.
        scores: (columns, labels).
        heard: runs of windows with the same best label: start and end in seconds, label, highest score.
    """

    title: str
    model: str
    windows: int
    duration_s: float
    labels: tuple[str, ...]
    means: tuple[float, ...]
    edges_s: tuple[float, ...]
    scores: NDArray[np.floating[Any]]
    heard: tuple[tuple[float, float, str, float], ...]

    @classmethod
    def of(
        cls,
        title: str,
        model: str,
        spans: Sequence[tuple[float, float]],
        scores: NDArray[np.floating[Any]],
        labels: Sequence[str],
    ) -> Timeline:
        """Select the drawn data.

        Args:
            model: name of the model.
            spans: of the windows, start and end in seconds.
            scores: (windows, classes).
        """
        import numpy as np

        means = scores.mean(axis=0)
        highest = np.argsort(-scores.max(axis=0), kind="stable")[:_CLASSES]
        chosen = highest[np.argsort(-means[highest], kind="stable")]
        middles = [(start + end) / 2 for start, end in spans]
        edges = [0.0, *((first + second) / 2 for first, second in pairwise(middles))]
        size = math.ceil(len(spans) / _COLUMNS)
        firsts = range(0, len(spans), size)
        heard = []
        for first, end in runs(scores.argmax(axis=1).tolist()):
            best = int(scores[first].argmax())
            heard.append((spans[first][0], spans[end - 1][1], labels[best], float(scores[first:end, best].max())))
        return cls(
            title=title,
            model=model,
            windows=len(spans),
            duration_s=spans[-1][1],
            labels=tuple(labels[number] for number in chosen),
            means=tuple(float(means[number]) for number in chosen),
            edges_s=(*(edges[first] for first in firsts), spans[-1][1]),
            scores=np.stack([scores[first : first + size, chosen].max(axis=0) for first in firsts]),
            heard=tuple(heard),
        )

    def page(self) -> str:
        """A page of its own, in HTML."""
        facts = (f"model: {self.model}", f"{clock(self.duration_s)} in {self.windows} windows")
        rows = [
            (f"{clock(start)} - {clock(end)}", label, f"{score:.3f}")
            for start, end, label, score in self.heard[:_LISTED]
        ]
        left = len(self.heard) - _LISTED
        joined = "Neighbouring windows with the same best label are one row, with its highest score."
        mean = [Bar(label=label, value=score) for label, score in zip(self.labels, self.means, strict=True)]
        sections = (
            section("Over time", self._drawing(), note="The stronger the colour, the higher the score, from 0 to 1."),
            section("Mean over the clip", bars("Mean score of each class", mean, unit="")),
            section(
                "Best label",
                table(("time", "label", "score#"), rows),
                note=f"{joined} {left} more are not listed." if left > 0 else joined,
            ),
        )
        return page(self.title, facts, sections)

    def _drawing(self) -> Html:
        scale = _WIDTH / self.duration_s
        parts = []
        for row, label in enumerate(self.labels):
            top = row * _ROW
            parts.append(_text(0, top + 13, label))
            parts.append(_box(0, _WIDTH, top + 17, "track", 1.0))
            for column, share in enumerate(self.scores[:, row].tolist()):
                start, end = self.edges_s[column], self.edges_s[column + 1]
                said = tag("title", f"{label}, {clock(start)} - {clock(end)}: {share:.3f}")
                parts.append(_box(start * scale, (end - start) * scale, top + 17, "heat", share, said))
        bottom = len(self.labels) * _ROW
        for seconds in time_ticks(self.duration_s, 5):
            x = seconds * scale
            parts.append(tag("path", class_="grid", d=f"M{x:.1f} {bottom}v5"))
            kind = "tick" if seconds == 0 else "tick middle" if x < _WIDTH - 20 else "tick end"
            parts.append(_text(x, bottom + 19, clock(seconds).removesuffix(".0"), kind))
        box = f"0 0 {_WIDTH} {bottom + _AXIS}"
        return tag("svg", *parts, role="img", aria_label="Score of each class over time", viewBox=box)


def clock(seconds: float) -> str:
    """A time as minutes, seconds and tenths, or as hours, minutes and seconds."""
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{tenths // 10:02d}"
    return f"{minutes}:{tenths // 10:02d}.{tenths % 10}"


def runs(values: Sequence[int]) -> list[tuple[int, int]]:
    """First and one past the last place of each run of equal values."""
    spells, place = [], 0
    for _, group in groupby(values):
        end = place + len(list(group))
        spells.append((place, end))
        place = end
    return spells


def time_ticks(duration_s: float, most: int) -> list[float]:
    """Round times from the start to the end of a clip."""
    step = next((step for step in _STEPS_S if duration_s / step <= most), math.ceil(duration_s / most / 3600) * 3600)
    return [number * step for number in range(math.floor(duration_s / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, kind: str = "") -> Html:
    return tag("text", text, class_=kind, x=f"{x:.1f}", y=f"{y:.1f}")


def _box(x: float, width: float, y: float, kind: str, share: float, *content: Html) -> Html:
    place = {"x": f"{x:.2f}", "y": f"{y}", "width": f"{width:.2f}", "height": str(_STRIP)}
    return tag("rect", *content, class_=kind, style=f"opacity:{share:.2f}", **place)
