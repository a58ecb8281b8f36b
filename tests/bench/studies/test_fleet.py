"""Cards of several devices in one table and on one page."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import Look
from click.testing import CliRunner, Result

from kdcmae.bench.cli import main
from kdcmae.bench.studies.fleet import fleet_tables, read_card, render_fleet
from kdcmae.cards import CardDevice, CardEngine, DeviceCard, SteadyLatency, Timings, Verdict
from kdcmae.errors import DataError

HOST: dict[str, str | int] = {
    "system": "Linux",
    "machine": "x86_64",
    "cpu": "Intel N100",
    "cpus": 4,
    "python": "3.12.1",
}


def card(*, precision: str = "bf16", device: dict[str, Any] | None = None, **engine: Any) -> DeviceCard:
    """What a device of class avx2-vnni says of an engine that claims bf16."""
    facts = {
        "folder": "/srv/ov",
        "digest": "a" * 64,
        "target": "openvino",
        "model": "classifier",
        "parameters": 1_000_000,
        "modality": "audiovisual",
        "random_weights": False,
        "batch": 1,
        "asked": "bf16",
        "built_for": "amx",
        "built_on": "Xeon",
        "built_ms": 1.0,
        "created": "2026-07-01T12:00:00+00:00",
        "size_bytes": 2_000_000,
    }
    where = {
        "name": "",
        "host": HOST,
        "cpu_class": "avx2-vnni",
        "cpu_features": ("avx2", "avx_vnni"),
        "cpu_cap": "",
        "libraries": {"openvino": "2026.4.1"},
        "runs_on": "CPU",
        "threads": None,
    }
    holds = "holds" if precision == "bf16" else "does not hold"
    return DeviceCard(
        kdcmae_version="0.1.0",
        created="2026-07-02T12:00:00+00:00",
        device=CardDevice(**{**where, **(device or {})}),
        engine=CardEngine(**{**facts, **engine}),
        executed={"products": {precision: 23}} if precision else {},
        read_from="a test",
        error=4e-4,
        tolerance=4e-2,
        verdicts=(Verdict(claim="products in bf16", outcome=holds, found=f"23 in {precision}"),),
        timings=Timings(
            load_ms=400.0,
            first_inference_ms=20.0,
            latency=SteadyLatency(
                warm_up_s=1.0,
                count=500,
                p50_ms=9.75,
                p90_ms=10.5,
                p99_ms=14.25,
                mean_ms=10.0,
                coefficient_of_variation=0.1,
            ),
            peak_rss_bytes=155_000_000,
        ),
    )


AMX = {"host": {**HOST, "cpu": "Xeon"}, "cpu_class": "amx"}


@pytest.fixture
def cards(tmp_path: Path) -> list[Path]:
    """Of one engine on a NUC, where it does not execute as claimed, and on a server, where it does."""
    paths = []
    for name, one in (("nuc", card(precision="fp32")), ("server", card(device=AMX))):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(one.to_dict()))
    return paths


def fleet(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fleet", *map(str, arguments)])


def test_a_card_is_read_as_it_was_written(cards: list[Path]) -> None:
    assert read_card(cards[0]) == card(precision="fp32")


def test_the_table_says_who_executes_what_how_fast_and_how_exactly(cards: list[Path]) -> None:
    result = fleet(*cards)
    assert result.exit_code == 0, result.output
    overview, figures, doubts = (table.texts for table in fleet_tables([read_card(path) for path in cards]))
    assert overview == (("openvino bf16", "fp32: 9.75, claims fail", "bf16: 9.75"),)
    assert [row[1:5] for row in figures] == [
        ("Intel N100, avx2-vnni", "fp32", "1 of 1 FAILED", "4.0e-04 (4e-02)"),
        ("Xeon, amx", "bf16", "hold", "4.0e-04 (4e-02)"),
    ]
    assert doubts == (("openvino bf16", "Intel N100, avx2-vnni", "products in bf16", "23 in fp32", "does not hold"),)
    for text in ("cards: 2, devices: 2, engines: 1", "1 of 1 FAILED", "23 in fp32", "14.25"):
        assert text in result.stdout


def test_json_is_one_document_with_every_card(cards: list[Path]) -> None:
    document = json.loads(fleet(*cards, "--json").stdout)
    assert [(row["engine"], row["device"], row["computes_in"]) for row in document["rows"]] == [
        ("openvino bf16", "Intel N100, avx2-vnni", "fp32"),
        ("openvino bf16", "Xeon, amx", "bf16"),
    ]
    assert document["rows"][0]["card"]["timings"]["latency"]["count"] == 500


def test_cards_are_compared_without_the_libraries_that_only_measuring_needs(
    cards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kdcmae.bench.machine.state", None)
    assert json.loads(fleet(*cards, "--json").stdout)["kind"] == "fleet"


def test_what_a_library_does_not_report_is_said() -> None:
    [overview, *_] = fleet_tables([card(precision="")])
    assert overview.texts == (("openvino bf16", "not reported: 9.75, claims fail"),)


def test_engines_and_devices_that_share_a_name_are_told_apart() -> None:
    others = [
        card(),
        card(digest="b" * 64, folder="/srv/smaller"),
        card(device={"cpu_cap": "AVX2", "threads": 2, "runs_on": "GPU"}),
    ]
    figures = fleet_tables(others)[1]
    assert {row[0] for row in figures.texts} == {"openvino bf16 (ov)", "openvino bf16 (smaller)"}
    assert "Intel N100, avx2-vnni, oneDNN capped to AVX2, GPU, threads: 2" in {row[1] for row in figures.texts}
    named = fleet_tables([card(device={"name": name}) for name in ("shelf 1", "shelf 2")])[1]
    assert {row[1] for row in named.texts} == {f"shelf {n}, Intel N100, avx2-vnni" for n in (1, 2)}
    same_folder = fleet_tables([card(), card(digest="b" * 64)])[1]
    assert {row[0] for row in same_folder.texts} == {"openvino bf16 (ov) (aaaaaaaa)", "openvino bf16 (ov) (bbbbbbbb)"}


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


PLAIN = card().to_dict()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**PLAIN, "schema_version": 2}),
        json.dumps(without(PLAIN, "timings")),
        json.dumps({**PLAIN, "surprise": 1}),
        json.dumps({**PLAIN, "error": "small"}),
        json.dumps({**PLAIN, "device": 5}),
        json.dumps({**PLAIN, "device": {**PLAIN["device"], "host": {}}}),
        json.dumps({**PLAIN, "verdicts": [{"claim": "files"}]}),
        json.dumps({**PLAIN, "executed": {"products": ["bf16"]}}),
    ],
)
def test_a_file_that_is_no_card_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(content)
    with pytest.raises(DataError, match="kdcmae check ENGINE --json"):
        read_card(path)
    assert fleet(path).exit_code == 2


def test_a_missing_card_is_wrong_use(tmp_path: Path) -> None:
    result = fleet(tmp_path / "nuc.json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_page_is_self_contained_and_escaped(cards: list[Path], tmp_path: Path) -> None:
    html = tmp_path / "fleet.html"
    assert fleet(*cards, "--html", html).exit_code == 0
    page = html.read_text(encoding="utf-8")
    for text in (
        "<h1>kdcmae fleet</h1>",
        "classifier: latency",
        "prefers-color-scheme: dark",
        "claims fail",
        "Xeon, amx",
    ):
        assert text in page
    assert "http" not in page
    assert "<script" not in page
    evil = dataclasses.replace(card().engine, model="<script>alert(1)</script>")
    assert "<script" not in render_fleet([dataclasses.replace(card(), engine=evil)])


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_does_not_scroll_sideways(cards: list[Path], look_at: Look, width: int) -> None:
    (seen,) = look_at([render_fleet([read_card(path) for path in cards])], width=width, dark=False)
    assert (seen["empty"], seen["outside"]) == (0, 0)
    assert seen["overflow"] <= 0
    assert seen["contrast"] >= 4.5
