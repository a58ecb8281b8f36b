"""The HTML page, as text and in a headless browser: self-contained, charts present, readable, dark and light."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import full_report, report

from kdcmae.bench.files import RESULTS
from kdcmae.bench.history import newest_reports
from kdcmae.bench.page import render_page
from kdcmae.bench.schema import Report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESKTOP = 390, 1280

# Runs in the page: what a reader would see of it, put where --dump-dom shows it.
MEASURE = """
const charts = [...document.querySelectorAll('svg[role=img]')];
const sizes = [...document.querySelectorAll('svg text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a);
const narrow = innerWidth;
const outside = [...document.querySelectorAll('.card, h1, h2, p, li')].filter(
  one => one.getBoundingClientRect().right > narrow + 1).length;
const colour = one => getComputedStyle(one).color.match(/[0-9.]+/g).slice(0, 3).map(Number);
const fill = one => getComputedStyle(one).fill.match(/[0-9.]+/g).slice(0, 3).map(Number);
const card = getComputedStyle(document.querySelector('.card'));
const ground = card.backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number);
document.documentElement.dataset.found = JSON.stringify({
  charts: charts.length, empty: charts.filter(one => one.getBoundingClientRect().height < 20).length,
  smallest: Math.min(...sizes), overflow: document.documentElement.scrollWidth - narrow, outside, ground,
  text: colour(document.querySelector('h2')), label: fill(document.querySelector('svg text')),
  width: innerWidth});
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set and no Chromium is on the PATH (Debian: apt-get install chromium)")
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


def newest_report() -> Report:
    """Of the last machine whose results are committed."""
    return newest_reports(Path(__file__).resolve().parents[2] / RESULTS)[-1]


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


def opened(browser: str, page: str, folder: Path, *, width: int, dark: bool) -> dict[str, object]:
    """Open a page in a window, or frame, of some width, and say what a reader would see."""
    measured = page.replace("</body>", f"<script>{MEASURE}</script></body>")
    if width < 500:  # the narrowest window of a desktop browser: a phone's width needs a frame
        framed = measured.replace("&", "&amp;").replace('"', "&quot;")
        told = "parent.document.documentElement.dataset.found = document.documentElement.dataset.found;"
        framed = framed.replace("</script></body>", f"{told}</script></body>")
        measured = f'<!doctype html><body style="margin:0"><iframe width="{width}" height="900" srcdoc="{framed}">'
    path = folder / "page.html"
    path.write_text(measured, encoding="utf-8")
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
            *(f"--window-size={max(width, 500)},900", f"--user-data-dir={folder / 'profile'}"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=2000"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stderr[-2000:]
    result: dict[str, object] = json.loads(found[1].replace("&quot;", '"'))
    return result


def contrast(one: list[float], other: list[float]) -> float:
    """Between two colours, as the Web Content Accessibility Guidelines 2 define it."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("shown", [full_report, newest_report], ids=["made up", "committed"])
def test_the_page_is_readable_in_a_browser(browser, tmp_path, shown, width, dark):
    page = render_page(shown())
    found = opened(browser, page, tmp_path, width=width, dark=dark)
    assert found["width"] == width
    assert found["charts"] == page.count('role="img"') >= 7
    assert found["empty"] == 0
    assert found["overflow"] <= 0
    assert found["outside"] == 0
    assert found["smallest"] >= 8.5
    assert (sum(found["ground"]) < 200) is dark
    for words in ("text", "label"):
        assert contrast(found[words], found["ground"]) >= 4.5
