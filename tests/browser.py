"""Pages in a headless browser, as a reader would see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Look", "browser", "look_at"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HEIGHT = 900

Look = Callable[..., list[dict[str, Any]]]

# Runs in each page, and tells the page around it what a reader would see.
MEASURE = """
const charts = [...document.querySelectorAll('svg[role=img]')];
const sizes = [...document.querySelectorAll('svg text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a);
const outside = [...document.querySelectorAll('.card, h1, h2, p, li, figure')].filter(
  one => one.getBoundingClientRect().right > innerWidth + 1).length;
const colour = (one, property) =>
  getComputedStyle(one)[property].match(/[0-9.]+/g).slice(0, 3).map(Number);
const ground = colour(document.querySelector('.card'), 'backgroundColor');
const luminance = rgb => rgb.map(value => value / 255).map(
  c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
).reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
const contrast = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05); };  // as the Web Content Accessibility Guidelines 2 define it
const words = [...document.querySelectorAll('.card h2, .card p, .card td, .card figcaption, .card small, .card .good')];
const labels = [...document.querySelectorAll('svg text')].filter(one => !one.classList.contains('cell'));
parent.postMessage({
  charts: charts.length, empty: charts.filter(one => one.getBoundingClientRect().height < 20).length,
  smallest: Math.min(...sizes), overflow: document.documentElement.scrollWidth - innerWidth, outside, ground,
  contrast: Math.min(...words.map(one => contrast(colour(one, 'color'), ground)),
                     ...labels.map(one => contrast(colour(one, 'fill'), ground))),
  broken: [...document.images].filter(one => !one.complete || one.naturalWidth === 0).length,
  width: innerWidth}, '*');
"""

COLLECT = """<script>
const found = [];
addEventListener('message', event => {
  const frames = [...document.querySelectorAll('iframe')];
  found[frames.findIndex(one => one.contentWindow === event.source)] = event.data;
  document.documentElement.dataset.found = JSON.stringify(found); });
</script>"""


@pytest.fixture(scope="session")
def browser() -> str:
    """A Chromium, or the test is skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail("REQUIRE_BROWSER is set and no Chromium is on the PATH (Debian: apt-get install chromium)")
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


@pytest.fixture
def look_at(browser: str, tmp_path: Path) -> Look:
    """Opens pages in frames of some width, and says of each what a reader would see of it."""

    def look(pages: list[str], *, width: int, dark: bool) -> list[dict[str, Any]]:
        # A desktop browser's window is never as narrow as a phone's; a frame may be.
        frames = [
            f'<iframe width="{width}" height="{HEIGHT}" style="border:0" '
            f'srcdoc="{escape(page.replace("</body>", f"<script>{MEASURE}</script></body>"))}"></iframe>'
            for page in pages
        ]
        path = tmp_path / "pages.html"
        path.write_text(f'<!doctype html>{COLLECT}<body style="margin:0">{"".join(frames)}', encoding="utf-8")
        done = subprocess.run(
            [
                browser,
                *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"),
                *(f"--window-size={max(width, 500)},{HEIGHT}", f"--user-data-dir={tmp_path / 'profile'}"),
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
        measured: list[dict[str, Any]] = json.loads(unescape(found[1]))
        assert len(measured) == len(pages)
        for one in measured:
            assert one["width"] == width
            assert (sum(one["ground"]) < 200) is dark
        return measured

    return look
