"""The HTML page, as text and in a headless browser: self-contained, charts present, readable, dark and light."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import full_report, report

from kdcmae.bench.report.files import RESULTS
from kdcmae.bench.report.history import newest_reports
from kdcmae.bench.report.page import render_page
from kdcmae.bench.report.records import Report

PHONE, DESKTOP = 390, 1280


def newest_report() -> Report:
    """Of the last machine whose results are committed."""
    return newest_reports(Path(__file__).resolve().parents[3] / RESULTS)[-1]


class Elements(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_is_self_contained_and_escapes_every_name():
    page = render_page(full_report())
    elements = Elements()
    elements.feed(page)
    assert "script" not in elements.tags
    assert "b" not in elements.tags
    assert page.count("a &lt;b&gt;&amp;&quot;&#x27;&lt;/script&gt; name") >= 3
    links = [value for name, value in elements.attributes if name in ("src", "href")]
    assert links == ["data:,"]
    assert "url(" not in page
    assert "http" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_every_kind_of_chart_is_there():
    page = render_page(full_report())
    for title in (
        "latency, batch 4",
        "accuracy against latency",
        "throughput over the batch",
        "from clip to label, by stage",
        "throughput over instances and threads",
        "cold start",
        "agreement",
    ):
        assert f"<h2>shipped: {title}</h2>" in page
    assert "no CUDA device" in page


def test_a_report_without_rows_is_a_page_too():
    assert "<h1>kdcmae benchmark</h1>" in render_page(report())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_pages_are_readable_in_a_browser(look_at, width, dark):
    pages = [render_page(full_report()), render_page(newest_report())]
    for page, found in zip(pages, look_at(pages, width=width, dark=dark), strict=True):
        assert found["charts"] == page.count('role="img"') >= 7
        assert found["empty"] == 0
        assert found["overflow"] <= 0
        assert found["outside"] == 0
        assert found["smallest"] >= 8.5
        assert found["contrast"] >= 4.5
