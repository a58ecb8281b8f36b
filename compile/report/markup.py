"""HTML that is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Html", "document", "section", "table", "tag"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --paper: #ffffff; --soft: #5c6773; --line: #d9dee4; --panel: #f5f7f9;
  --accent: #2563a8; --good: #1a7f4b; --bad: #b3261e; --idle: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ed; --paper: #14181d; --soft: #9aa5b1; --line: #333b44;
  --panel: #1d232a; --accent: #6db0f2; --good: #57c98a; --bad: #f2877f; --idle: #e0b454; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
p { margin: 0.4rem 0; }
.soft { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .idle { color: var(--idle); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; overflow-wrap: normal; }
th, td { text-align: left; padding: 0.35rem 0.75rem 0.35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--accent); }
svg { display: block; width: 100%; }
svg[viewBox] { max-width: 40rem; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .soft { fill: var(--soft); }
svg .track { fill: var(--panel); }
svg .bar, svg .point { fill: var(--accent); }
svg .bad { fill: var(--bad); }
svg .limit { stroke: var(--idle); stroke-width: 2; }
svg .axis { stroke: var(--line); }
"""


class Html(str):
    """Markup that is complete and safe as it is."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Html:
    """An element.

    Args:
        name: of the element.
        children: text, which is escaped, and :class:`Html`, which is not.
        attributes: ``class_`` stands for ``class``, other underscores for hyphens.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"' for key, value in attributes.items()
    )
    inner = "".join(child if isinstance(child, Html) else escape(child) for child in children)
    return Html(f"<{name}{written}>{inner}</{name}>")


def section(title: str, *content: str) -> Html:
    """A headed part of the page."""
    return tag("section", tag("h2", title), *content)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Html:
    """A table that scrolls on its own where it is wider than the page; headers that end in ``#`` are of numbers."""
    titles = list(header)
    kinds = [{"class_": "number"} if title.endswith("#") else {} for title in titles]
    head = tag("tr", *(tag("th", title.rstrip("#"), **kind) for title, kind in zip(titles, kinds, strict=True)))
    body = [tag("tr", *(tag("td", cell, **kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll")


def document(title: str, *content: str) -> str:
    """A whole page."""
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *content), lang='en')}\n"
