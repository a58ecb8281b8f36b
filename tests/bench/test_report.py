"""What a report looks like on the terminal and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from kdcmae.bench.report import print_report
from kdcmae.bench.schema import Parity, Report, Row, SelfTestResult, Settings, Speed
from kdcmae.bench.timing import Schedule, summarize

SETTINGS = Settings(batch=4, threads=2, seconds=10, warm_up_s=1, timeout_s=300)
ENVIRONMENT = {
    "host": {"system": "Linux", "machine": "x86_64", "cpu": "A CPU [fast]", "cpus": 8, "python": "3.11.7"},
    "usable_cpus": 4,
    "load_average_1min": 0.25,
    "libraries": {"numpy": "2.4.6", "torch": "2.13.0"},
    "git_commit": "0123abcd",
}


def row(
    subject: str, *, ms: float, verdict: str | None = None, variation: float = 0.0, error: float | None = 1e-5
) -> Row:
    latency = summarize([[ms], [ms * (1 + variation)]])
    return Row(
        subject=subject,
        status="measured" if latency.stable else "unstable",
        kind="onnx",
        computes_in="bf16",
        load_ms=1234.5,
        first_inference_ms=12.345,
        latency=latency,
        throughput_samples_per_s=4000 / ms,
        peak_rss_bytes=123_456_789,
        self_test=SelfTestResult(passed=True, error=2e-3, tolerance=4e-2),
        parity=Parity(error=error, tolerance=4e-2, passed=error is not None and error < 4e-2) if verdict else None,
        speed=Speed(ratio=2.5, low=2.25, high=2.75, verdict=verdict) if verdict else None,
    )


def report(*rows: Row, reference: int | None = 0) -> Report:
    return Report(
        kdcmae_version="0.1.0",
        created="2026-07-01T12:00:00+00:00",
        environment=ENVIRONMENT,
        settings=SETTINGS,
        schedule=Schedule(rounds=20, window_s=0.5),
        reference=reference,
        rows=rows,
    )


def printed(shown: Report) -> str:
    stream = io.StringIO()
    print_report(shown, Console(file=stream, highlight=False))
    return stream.getvalue()


def line_of(subject: str, text: str) -> list[str]:
    """The subject's lines, in the two tables."""
    return [line for line in text.splitlines() if line.startswith(subject)]


def test_the_conditions_are_stated():
    text = printed(report(row("model.pth", ms=10)))
    assert "host to host: numpy arrays in, numpy arrays out; decoding and preprocessing are not included" in text
    assert "batch 4, threads 2, warm-up 1 s, 20 interleaved windows of 0.5 s" in text
    assert "A CPU [fast], 4 CPUs, Linux, load 0.25 at start" in text
    assert "kdcmae 0.1.0 (0123abcd), Python 3.11.7, numpy 2.4.6, torch 2.13.0" in text


def test_figures_stand_in_the_subject_s_lines():
    latency, start = line_of("out/ov", printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster"))))
    name = ["out/ov", "(bf16)"]
    assert latency.split() == [*name, *"4444", "0.0%", "1000", "1.0e-05", "2.50x", "(2.25-2.75)", "faster"]
    assert start.split() == [*name, "1234", "12.35", "2", "123", "2.0e-03", "measured"]


def test_the_reference_is_marked():
    latency, _ = line_of("model.pth", printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster"))))
    assert latency.split()[-2:] == ["-", "reference"]


def test_an_unstable_row_names_no_winner():
    text = printed(report(row("model.pth", ms=10), row("out/ov", ms=4, variation=0.2, verdict="unstable")))
    latency, start = line_of("out/ov", text)
    assert latency.rstrip().endswith("unstable")
    assert start.rstrip().endswith("unstable")
    assert "no winner is named" in text
    assert "faster" not in text


def test_what_was_not_measured_says_why():
    reason = "not measured on this hardware: no [CUDA] device"
    text = printed(report(Row(subject="out/trt", status="not measured", reason=reason), reference=None))
    latency, start, remark = line_of("out/trt", text)
    assert latency.split() == ["out/trt", *"-" * 8]
    assert start.split() == ["out/trt", *"-" * 5, "not", "measured"]
    assert remark == f"out/trt: {reason}"


@pytest.mark.parametrize(
    ("error", "words"), [(0.5, "differ by 5.0e-01, allowed 4.0e-02"), (None, "cannot be compared, allowed 4.0e-02")]
)
def test_different_outputs_are_spelt_out(error, words):
    text = printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster", error=error)))
    assert f"out/ov: its outputs and those of model.pth {words}: they do not compute the same" in text


def test_tables_fit_into_120_columns():
    long = "out/" + "a-very-long-engine-name" * 3
    rows = [row(long, ms=12345.6, verdict="no difference", variation=0.02, error=None) for _ in range(2)]
    lines = printed(report(row("model.pth", ms=10), *rows)).splitlines()
    tables = [line for line in lines if not line.startswith(("versions:", long))]
    assert max(map(len, tables)) <= 120


def test_the_json_is_strict_and_complete():
    rows = (row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster", error=None))
    document = report(*rows, Row(subject="out/trt", status="not measured", reason="no device")).to_dict()
    content = json.loads(json.dumps(document, allow_nan=False))
    assert content["schema_version"] == 1
    assert content["environment"] == ENVIRONMENT
    assert content["boundary"].startswith("host to host")
    assert content["settings"]["seconds"] == 10
    assert content["schedule"] == {"rounds": 20, "window_s": 0.5}
    assert content["reference"] == 0
    assert [found["subject"] for found in content["rows"]] == ["model.pth", "out/ov", "out/trt"]
    assert content["rows"][1]["speed"] == {"ratio": 2.5, "low": 2.25, "high": 2.75, "verdict": "faster"}
    assert content["rows"][1]["latency"]["window_medians_ms"] == [4, 4]
    assert len({frozenset(found) for found in content["rows"]}) == 1


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["measured", "unstable", "not measured"], 0),
        (["measured", "failed"], 1),
        (["not measured", "not measured"], 3),
        (["not measured", "failed"], 1),
    ],
)
def test_exit_codes(statuses, code):
    assert report(*(Row(subject="x", status=status) for status in statuses)).exit_code == code
