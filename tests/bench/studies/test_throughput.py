"""Clips per second of an engine that many callers share."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from kdcmae.bench.cli import main
from kdcmae.bench.studies import throughput
from kdcmae.bench.studies.throughput import ONE, SECTION, TOOL, measure_throughput


class AppStub:
    """Says what the tool would, in the place of OpenVINO's own."""

    def __init__(self, folder, *options):
        assert options == ("-hint", "throughput")

    def run(self, seconds):
        return {"throughput": "250.0", "latency (ms)": "4.0"}


def test_every_way_is_compared_with_one_caller_and_with_the_tool(engine_folder, monkeypatch):
    monkeypatch.setattr(throughput, "BenchmarkApp", AppStub)
    report = measure_throughput(engine_folder, seconds=0.02, step=nullcontext)
    ways = {way["way"]: way for way in report["ways"]}
    streams = f"streams={report['streams']}"
    assert list(ways) == [
        ONE,
        "8 threads",
        f"8 threads, {streams}",
        f"infer_many, {streams}",
        f"classify in 8 threads, {streams}",
        TOOL,
    ]
    assert all(way["clips_per_s"] > 0 for way in ways.values())
    assert ways[TOOL]["clips_per_s"] == pytest.approx(250)
    assert ways[ONE]["over_one"]["ratio"] == ways[TOOL]["over_tool"]["ratio"] == 1
    expected = ways[ONE]["over_tool"]["ratio"] * ways[TOOL]["over_one"]["ratio"]
    assert expected == pytest.approx(1)


def test_from_the_command_line(engine_folder, tmp_path):
    readme, output = tmp_path / "README.md", tmp_path / "throughput.json"
    readme.write_text(f"{SECTION.begin}\n{SECTION.end}\n", encoding="utf-8")
    arguments = ["throughput", engine_folder, "--seconds", 0.02, "--readme", readme, "--output", output, "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert "engines for OpenVINO that take batch 1" in report["no_tool"]
    text = readme.read_text(encoding="utf-8")
    assert "| 8 threads |" in text
    assert "No benchmark_app: " in text
