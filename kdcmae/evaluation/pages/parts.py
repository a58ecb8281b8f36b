"""Parts of the pages of all tasks: head, tables of metrics, pictures, and skipped clips."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdcmae import __version__
from kdcmae.data.images import encode_image
from kdcmae.drawing import charts
from kdcmae.drawing.markup import Html, page, section, table, tag
from kdcmae.evaluation.pictures import Shown, shrunk
from kdcmae.evaluation.wording import cell, figure_name, interval, percent
from kdcmae.runtime.preprocessing import HIGH_FREQUENCY_HZ, LOW_FREQUENCY_HZ

__all__ = [
    "CLIPS_SHOWN",
    "PANEL",
    "THUMBNAIL",
    "Document",
    "Pictures",
    "data_uri",
    "figures_table",
    "frame_panel",
    "headline",
    "picture",
    "skipped_sections",
    "sound_panel",
    "strip",
    "task_page",
    "uri",
]

Document = Mapping[str, Any]
"""A report as its JSON file holds it."""

Pictures = Mapping[str, Mapping[str, Shown]]
"""Pictures by clip id and by kind."""

CLIPS_SHOWN = 24
"""Most clips with pictures on a page: with three panels each the page stays below 3 MB."""

THUMBNAIL, PANEL = 8_000, 14_000
"""Most bytes of a picture."""

_SKIPPED_SHOWN = 50
_QUANTISERS = (5, 9, 16, 31)  # of JPEGs: the first leaves no artefacts at the size that a page shows
_COLUMNS, _SIDE = 400, 200  # pixels of a panel of sound and of a frame: no more than a sharp screen shows
_LONGEST_NAME = 60
_MARKS_HZ = (100, 500, 1000, 2000, 4000, 8000)


def task_page(title: str, document: Document, sections: Iterable[Html]) -> str:
    """The page of a task.

    Args:
        sections: of the page, before the skipped clips.
    """
    model, data = document["model"], document["data"]
    settings = [f"{name.replace('_', ' ')}: {_said(value)}" for name, value in document["settings"].items()]
    facts = [
        f"model {model['path']}, computed by {model['runs_on']}",
        f"{data['clips']} clips of {data['manifest']}, {len(data['skipped'])} skipped",
        *([", ".join(settings)] if settings else []),
        f"kdcmae {__version__}",
    ]
    return page(title, facts, [*sections, *skipped_sections(data["skipped"])])


def _said(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    return "none" if value is None else str(value)


def headline(value: float | None, words: str, ends: Sequence[float] | None) -> Html:
    """The headline metric, a share.

    Args:
        ends: of its 95 % interval.
    """
    between = f", 95 % interval {interval(ends)}" if ends is not None else ""
    return Html(tag("p", percent(value), class_="headline") + tag("p", f"{words}{between}", class_="note"))


def figures_table(columns: Mapping[str, Document], intervals: Mapping[str, Document]) -> Html:
    """Figures, a column per result, the 95 % intervals of shares below them.

    Args:
        columns: figures by name, by what they are of.
        intervals: ends by name, by the same; results without intervals are left out.
    """
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = []
    for name in names:
        cells = [_figure(name, column, intervals.get(title, {})) for title, column in columns.items()]
        rows.append([figure_name(name), *cells])
    said = "Small: the 95 % interval." if any(intervals.values()) else ""
    return Html(table(["figure", *(f"{title}#" for title in columns)], rows) + tag("p", said, class_="small"))


def _figure(name: str, column: Document, intervals: Document) -> Html:
    if name not in column:
        return Html()
    between = tag("small", interval(intervals[name])) if intervals.get(name) else Html()
    return Html(tag("span", cell(name, column[name])) + between)


def uri(shown: Shown, *, most: int = THUMBNAIL) -> str:
    """A picture as a data URI.

    Args:
        most: bytes of its JPEG file, if the coarsest quality allows it.
    """
    pixels = np.ascontiguousarray(shown.picture)
    for quantiser in _QUANTISERS:
        content = encode_image(pixels, "jpeg", quantiser=quantiser)
        if len(content) <= most:
            break
    return data_uri("jpeg", content)


def data_uri(kind: str, content: bytes) -> str:
    """The content of a picture's file as a URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(shown: Shown, said: str, kind: str = "", *, most: int = THUMBNAIL) -> Html:
    """A picture of a clip.

    Args:
        said: to screen readers.
        kind: class of the style sheet.
        most: bytes, see :func:`uri`.
    """
    return tag("img", src=uri(shown, most=most), alt=said, **({"class_": kind} if kind else {}))


def strip(clip: str, pictures: Pictures) -> Html:
    """The frame of a clip beside its sound, as far as pictures exist."""
    own = pictures.get(clip, {})
    parts = [picture(own[kind], f"{kind} of {clip}", kind) for kind in ("frame", "sound") if kind in own]
    if not parts:
        return tag("p", "no picture: the clip could not be read again", class_="soft")
    sound = own.get("sound")
    length = f"{charts.number(sound.seconds)} s of sound" if sound is not None and sound.seconds else ""
    return Html(tag("div", *parts, class_="strip") + (tag("p", length, class_="soft") if length else ""))


def sound_panel(title: str, shown: Shown, said: str) -> Html:
    """A spectrogram between axes of seconds and Hz, below its title."""
    lowest, span = _mel(LOW_FREQUENCY_HZ), _mel(HIGH_FREQUENCY_HZ) - _mel(LOW_FREQUENCY_HZ)
    marks = {str(hertz): (_mel(hertz) - lowest) / span for hertz in _MARKS_HZ}
    small = _shrunk(shown, rows=len(shown.picture), columns=_COLUMNS)
    drawn = charts.spectrogram(said, uri(small, most=PANEL), seconds=shown.seconds or 0.0, marks=marks)
    return tag("figure", tag("figcaption", tag("b", title)), drawn)


def frame_panel(title: str, shown: Shown, said: str) -> Html:
    """A frame below its title."""
    small = _shrunk(shown, rows=_SIDE, columns=_SIDE)
    return tag("figure", tag("figcaption", tag("b", title)), picture(small, said, most=PANEL))


def _shrunk(shown: Shown, *, rows: int, columns: int) -> Shown:
    pixels = shrunk(shown.picture, rows, columns).round().clip(0, 255).astype(np.uint8)
    return Shown(pixels, shown.seconds)


def _mel(hertz: float) -> float:
    return float(np.log1p(hertz / 700.0))


def skipped_sections(skipped: Sequence[Mapping[str, str]]) -> list[Html]:
    """The clips that could not be used and why; no section if there are none."""
    if not skipped:
        return []
    rows = [(charts.cut(clip["clip"], _LONGEST_NAME), clip["reason"]) for clip in skipped[:_SKIPPED_SHOWN]]
    more = f" The first {_SKIPPED_SHOWN} of {len(skipped)}." if len(skipped) > _SKIPPED_SHOWN else ""
    said = f"They count in no figure above.{more}"
    return [section("Clips that were skipped", table(("clip", "reason"), rows), note=said, wide=True)]
