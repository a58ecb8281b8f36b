from __future__ import annotations

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from kdcmae.compile.report import render
from kdcmae.compile.report.notes import how_rungs_ran
from kdcmae.compile.report.use import cpu_lines, snippet
from kdcmae.runtime.manifest import Manifest

SIZES = {"model.bin": 2_000_000, "model.xml": 30_000}
VOID = {"meta", "link"}


class Checked(HTMLParser):
    """Collects what a page holds, and fails on an element that is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def manifest(engine):
    return Manifest.read(engine)


def test_the_page_is_in_the_engine_under_a_digest(engine, manifest):
    assert "report.html" in manifest.files
    Checked((engine / "report.html").read_text(encoding="utf-8"))


def test_the_page_shows_ladder_precision_sizes_timings_and_environment(manifest):
    page = Checked(render(manifest, SIZES))
    text = " ".join(page.text)
    for part in ("program", "onnx", "engine", "artifact", "made clips", "products", "2.00 MB", "export to ONNX",
                 "built and verified", str(manifest.build["host"]["cpu"]), manifest.libraries["openvino"]):  # fmt: skip
        assert part in text
    assert sum(name == "svg" for name, _ in page.found) == 3


def test_the_page_needs_nothing_from_elsewhere(manifest):
    page = render(manifest, SIZES)
    loads = {"script", "img", "iframe", "object"}
    found = Checked(page).found
    assert not loads & {name for name, _ in found}
    assert [attributes["href"] for name, attributes in found if name == "link"] == ["data:,"]
    assert "http" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_what_others_wrote_is_escaped(manifest):
    evil = "<script>alert('x')</script>"
    changed = dataclasses.replace(
        manifest, model={**manifest.model, "name": evil, "source": evil}, libraries={evil: f'"{evil}'}
    )
    page = render(changed, {evil: 1})
    assert "<script" not in page
    assert evil in " ".join(Checked(page).text)


def test_sensitivity_and_search_are_drawn_where_the_manifest_has_them(manifest):
    sensitivity = {"blocks_u.3.mlp.fc1": 0.02, "blocks_u.9.attn.qkv": 0.5}
    trials = [
        {"precision": "int8", "keep": 0.5, "latency_ms": {"1": 100.0, "2": 60.0}, "drop": 0.8},
        {"precision": "bf16", "keep": 1.0, "latency_ms": {"2": 120.0}, "drop": 0.0},
        {"precision": "fp32", "keep": 1.0, "latency_ms": {}, "drop": None},
    ]
    changed = dataclasses.replace(
        manifest,
        precision={**manifest.precision, "sensitivity": sensitivity},
        build={**manifest.build, "search": {"trials": trials}},
    )
    text = " ".join(Checked(render(changed, SIZES)).text)
    assert text.index("blocks_u.9.attn.qkv") < text.index("blocks_u.3.mlp.fc1")
    assert "latency in ms" in text
    assert "int8, 50% of the tokens" in text
    assert "fp32, 100%" not in text


def test_what_was_not_measured_names_the_command_that_does(manifest):
    build = {name: value for name, value in manifest.build.items() if name != "latency"}
    text = "".join(Checked(render(dataclasses.replace(manifest, build=build), SIZES)).text)
    assert "not measured: run kdcmae-bench FOLDER" in text
    assert "not measured: run kdcmae-compile --target openvino --precision int8 --max-drop POINTS" in text
    assert "nothing else was tried: run kdcmae-compile --budget-ms MILLISECONDS" in text


def test_rungs_that_ran_the_same_way_share_a_line():
    notes = {"program": "", "engine": "in fp32", "artifact": "in fp32"}
    rungs = [{"name": name, "note": note} for name, note in notes.items()]
    assert how_rungs_ran(rungs) == ["engine, artifact: in fp32"]


def test_the_latency_of_the_build_is_shown(manifest):
    latency = manifest.build["latency"]
    assert latency["batch"] == 1
    assert 0 < latency["median_ms"] <= latency["p90_ms"]
    assert f"median {latency['median_ms']:.3g} ms" in "".join(Checked(render(manifest, SIZES)).text)


def test_an_engine_that_was_not_executed_says_so(manifest):
    rung = {"name": "engine", "status": "skipped", "errors": {}, "note": "built, not executed: no CUDA device"}
    changed = dataclasses.replace(manifest, parity=[*manifest.parity[:2], rung])
    assert "built, not executed: no CUDA device" in render(changed, SIZES)


def test_a_claim_that_was_not_checked_does_not_hold(manifest):
    claims = [{**claim, "executed": {}, "holds": None} for claim in manifest.precision["claims"]]
    changed = dataclasses.replace(manifest, precision={**manifest.precision, "claims": claims})
    text = Checked(render(changed, SIZES)).text
    assert text.count("not checked on this machine") == len(claims)
    assert "holds" not in text


def test_the_page_shows_what_an_app_gives_and_gets(manifest):
    text = " ".join(Checked(render(manifest, SIZES)).text)
    for part in ("load_engine", "log-mel values", "pixels square", manifest.labels[0], "Built for", "with a load of"):
        assert part in text


def test_the_page_says_which_processors_the_engine_is_for(manifest):
    def lines(target: str, *products: str) -> str:
        precision = {**manifest.precision, "products": dict.fromkeys(products, 1)}
        return " ".join(cpu_lines(dataclasses.replace(manifest, target=target, precision=precision)))

    assert "others execute a wider precision" in lines("openvino", "bf16")
    assert "bf16 executes natively" in lines("aoti", "bf16")
    assert "others" not in lines("aoti", "bf16")
    assert lines("openvino", "int4", "fp32") == lines("openvino", "fp32")  # of a version that knows int4


def test_the_page_s_program_runs(engine, manifest):
    done = subprocess.run([sys.executable, "-c", snippet(manifest)], cwd=engine, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(":")[0] in manifest.labels


def test_every_link_of_the_page_leads_to_a_section(manifest):
    page = Checked(render(manifest, SIZES))
    anchors = [attributes["href"] for name, attributes in page.found if name == "a"]
    assert anchors
    assert {f"#{attributes.get('id')}" for _, attributes in page.found} >= set(anchors)
