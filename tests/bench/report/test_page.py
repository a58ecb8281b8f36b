"""The HTML page, as text and in a headless browser: self-contained, charts present, readable, dark and light."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reports import full_report, report, row

from kdcmae.bench.report.files import RESULTS
from kdcmae.bench.report.history import stored_documents
from kdcmae.bench.report.page import render_page
from kdcmae.bench.report.records import Agreement, Report, report_of

PHONE, DESKTOP = 390, 1280


def newest_report() -> Report:
    """Of the last machine whose results are committed."""
    return report_of(stored_documents(Path(__file__).resolve().parents[3] / RESULTS)["benchmark"][-1])


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
    links = [str(value) for name, value in elements.attributes if name in ("src", "href")]
    places = [f"#{value}" for name, value in elements.attributes if name == "id"]
    assert links == ["data:,", *places]
    assert len(places) == len(set(places)) == 3
    assert "url(" not in page
    assert "http" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S)


def test_every_kind_of_chart_is_there():
    page = render_page(full_report())
    for title in (
        "Latency, batch 4",
        "Accuracy against latency",
        "Throughput over the batch",
        "From clip to label, by stage",
        "Throughput over instances and threads",
        "Cold start",
    ):
        assert f"<h2>{title}</h2>" in page
    assert "<summary>shipped: agreement</summary>" in page
    assert "no CUDA device: TensorRT fp16" in page


def test_the_verdict_comes_first_and_the_conditions_last():
    page = render_page(full_report())
    verdict = page.index("Fastest engine within 1 point of PyTorch eager&#x27;s accuracy: OpenVINO fp32")
    assert verdict < page.index("<table") < page.index("<svg") < page.index("<details>") < page.index(">Conditions<")
    assert "2.50x as fast" in page


def test_differences_between_other_tasks_are_not_coloured_as_bad():
    names = ("PyTorch eager", "OpenVINO int8", "half the tokens", "sound only")
    rows = [row(name, ms=index + 1, model="m") for index, name in enumerate(names)]
    rows[2], rows[3] = dataclasses.replace(rows[2], keep=0.5), dataclasses.replace(rows[3], modality="audio")
    flips = tuple(tuple(0 if one == other else 10 for other in names) for one in names)
    cosine = ((0.9,) * 4,) * 4
    agreement = Agreement(model="m", data="clips", clips=96, subjects=names, cosine=cosine, flips=flips)
    page = render_page(report(*rows, agreement=(agreement,)))
    assert page.count('class="lost"') == 2  # PyTorch and OpenVINO int8, both ways


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
