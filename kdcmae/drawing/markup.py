"""HTML that escapes all text except markup made in this module, and pages built from it.

A page is one file without scripts or external resources, for light and dark screens, phones and desktops. Every page of
the package uses the style sheet of this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["COLOURS", "Html", "document", "legend", "page", "section", "table", "tag"]

COLOURS = 8
"""Classes c0 ... c7 of the style sheet fill a shape of a drawing, s0 ... s7 draw its line."""

_VOID = frozenset({"br", "img", "link", "meta"})

_STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #16202c; --soft: #55606e; --line: #dfe3e8;
  --panel: #eef1f4; --accent: #2563a8; --good: #1a7f4b; --bad: #b3261e; --idle: #8a6100; --kept: #d9f2e3;
  --lost: #f08a8a; --heat: #1f5fc4; --on-heat: #fff;
  --c0: #2f6fde; --c1: #e0762a; --c2: #2a9d63; --c3: #b04ac2; --c4: #c23b4e;
  --c5: #0f9bb0; --c6: #8a6d1d; --c7: #6b7684; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f141a; --card: #182029; --ink: #e8edf2; --soft: #a2adba;
  --line: #2d3844; --panel: #232d38; --accent: #6db0f2; --good: #57c98a; --bad: #f2877f; --idle: #e0b454;
  --kept: #1d4030; --lost: #a33d47; --heat: #78b0ff; --on-heat: #0b1420;
  --c0: #6ea3ff; --c1: #ffa05c; --c2: #5fd39a; --c3: #d98ae8;
  --c4: #ff7f91; --c5: #4fd0e4; --c6: #d9b959; --c7: #9aa7b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
header, main { max-width: 1240px; margin: 0 auto; padding: 16px; }
main { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  align-items: start; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 8px 0; }
h2 { font-size: 1.05rem; margin: 0 0 4px; }
h3 { font-size: .9375rem; margin: 12px 0 0; }
p { margin: 0.4rem 0; }
.facts { margin: 0; padding: 0; list-style: none; color: var(--soft); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; min-width: 0; }
.wide { grid-column: 1 / -1; }
body > .card { width: min(100% - 32px, 1208px); margin: 0 auto 16px; }
.note { margin: 0 0 12px; color: var(--soft); font-size: .875rem; }
.soft { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .idle { color: var(--idle); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%;
  overflow-wrap: normal; }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 6rem; }
small { display: block; color: var(--soft); font-size: .75rem; }
.small { color: var(--soft); font-size: .75rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
@media (max-width: 640px) {
  .cards, .cards tbody, .cards tr, .cards th { display: block; }
  .cards thead { display: none; }
  .cards tr { border-bottom: 1px solid var(--line); padding: 8px 0; }
  .cards tr:last-child { border: 0; }
  .cards th, .cards td { border: 0; padding: 1px 0; }
  .cards tbody th { font-weight: 600; }
  .cards td, .cards td.number { display: flex; gap: 16px; justify-content: space-between; text-align: right;
    white-space: normal; }
  .cards td::before { content: attr(data-label); color: var(--soft); text-align: left; }
  .cards td:empty { display: none; } }
pre { margin: 8px 0; padding: 10px 12px; overflow-x: auto; background: var(--panel); border-radius: 6px;
  font-size: .875rem; }
details { margin: 12px 0; }
.folded details { margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 8px; font-size: .9375rem; }
nav a { color: var(--accent); }
.chapter { grid-column: 1 / -1; font-size: 1.25rem; margin: 16px 0 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 8px; color: var(--soft); font-size: .8125rem; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
summary { cursor: pointer; color: var(--accent); }
svg { display: block; width: 100%; }
svg[viewBox] { max-width: 40rem; height: auto; }
.scroll svg { max-width: none; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .value, svg .cell { font-size: 12.5px; }
svg .value, svg .tick, svg .soft { fill: var(--soft); }
svg .tick { font-size: 12px; }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .track { fill: var(--panel); }
svg .bad { fill: var(--bad); }
svg .kept { fill: var(--kept); }
svg .lost { fill: var(--lost); }
svg .heat { fill: var(--heat); }
svg .on-heat { fill: var(--on-heat); }
svg .limit { stroke: var(--idle); stroke-width: 2; }
.grid, .whisker, .front, .line { fill: none; stroke: var(--line); stroke-width: 1; }
.whisker { stroke: var(--soft); stroke-width: 1.5; }
.front { stroke: var(--soft); stroke-dasharray: 4 4; }
.line { stroke-width: 2; }
.headline { font-size: 2rem; font-weight: 600; line-height: 1.2; margin: 4px 0; }
.gallery { display: grid; gap: 12px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8125rem; color: var(--soft); margin: 2px 0 6px; }
figcaption b { color: var(--ink); }
.clip { border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
.clip p { margin: 2px 0; font-size: .8125rem; }
img { display: block; max-width: 100%; border-radius: 4px; }
.strip { display: flex; gap: 8px; align-items: stretch; }
.strip img { height: 96px; }
.strip .frame { flex: none; aspect-ratio: 1; object-fit: cover; }
.strip .sound { flex: 1 1 0; min-width: 0; }
.answers { display: grid; gap: 6px; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); margin-top: 8px; }
.answers img { width: 100%; aspect-ratio: 1; }
.answers figcaption { margin: 0; font-size: .75rem; }
.right img { outline: 3px solid var(--good); outline-offset: -3px; }
.panels { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.rows { display: grid; gap: 12px; grid-template-columns: minmax(0, 1fr); }
.squares { display: grid; gap: 8px; grid-template-columns: repeat(3, minmax(0, 1fr)); max-width: 600px; }
.squares img { width: 100%; }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.cells { image-rendering: pixelated; width: min(100%, 640px); }
""" + "".join(
    f".c{index} {{ fill: var(--c{index}); }} .s{index} {{ stroke: var(--c{index}); }}\n"
    f"i.c{index} {{ background: var(--c{index}); }}\n"
    for index in range(COLOURS)
)


class Html(str):
    """Markup that is complete and safe as it is."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str) -> Html:
    """An element.

    Args:
        children: text, which is escaped, and :class:`Html`, which is not.
        attributes: ``class_`` stands for ``class``, other underscores for hyphens.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value, quote=True)}"' for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    inner = "".join(child if isinstance(child, Html) else escape(child) for child in children)
    return Html(f"<{name}{written}>{inner}</{name}>")


def section(title: str, *content: str, note: str = "", wide: bool = False) -> Html:
    """A titled box of the page.

    Args:
        content: text and :class:`Html`.
        note: one plain sentence below the heading.
        wide: it takes the whole width of a page in columns.
    """
    said = [tag("p", note, class_="note")] if note else []
    return tag("section", tag("h2", title), *said, *content, class_="card wide" if wide else "card")


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, caption: str = "", cards: bool = False) -> Html:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        header: names of the columns; one that ends in ``#`` is of numbers, flush right.
        rows: cells, text or :class:`Html`.
        caption: said above it; none where empty.
        cards: on a narrow screen each row becomes a list of its values, without the empty ones, and nothing scrolls.
    """
    titles = list(header)
    labels = [title.rstrip("#") for title in titles] if cards else []
    kinds = [{"class_": "number"} if title.endswith("#") else {} for title in titles]
    names = (tag("th", title.rstrip("#"), scope="col", **kind) for title, kind in zip(titles, kinds, strict=True))
    parts = [tag("caption", caption)] if caption else []
    parts += [tag("thead", tag("tr", *names)), tag("tbody", *(_row(list(row), kinds, labels) for row in rows))]
    shape = {"class_": "cards"} if cards else {}
    return tag("div", tag("table", *parts, **shape), class_="scroll")


def _row(cells: Sequence[str], kinds: Sequence[dict[str, str]], labels: Sequence[str]) -> Html:
    """Cells of a row, each with its label where there are labels; the first names the row unless it is a number."""
    written = []
    for number, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
        label = {"data_label": labels[number]} if labels else {}
        names_row = number == 0 and not kind
        written.append(tag("th", cell, scope="row") if names_row else tag("td", cell, **kind, **label))
    return tag("tr", *written)


def legend(colours: Mapping[int, str]) -> Html:
    """Names of the page's colours, beside a square of each.

    Args:
        colours: name by number of the colour.
    """
    names = (tag("span", tag("i", class_=f"c{index % COLOURS}"), name) for index, name in colours.items())
    return tag("p", *names, class_="legend")


def page(title: str, facts: Sequence[str], sections: Iterable[Html]) -> str:
    """A whole page in columns, as far as the window is wide enough.

    Args:
        facts: lines below the heading, such as the machine and the versions.
        sections: in order.
    """
    listed = tag("ul", *(tag("li", fact) for fact in facts), class_="facts")
    return document(title, tag("header", tag("h1", title), listed), tag("main", *sections))


def document(title: str, *content: str) -> str:
    """A whole page.

    Args:
        content: of the body, text and :class:`Html`.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *content), lang='en')}\n"
