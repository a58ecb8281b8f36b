"""Write the README's table of what to expect, from the suite's newest run and the accuracy study.

python docs/tools/expect.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from kdcmae.bench.report.history import newest_reports
from kdcmae.bench.report.markers import replace_between, table_row
from kdcmae.bench.report.records import Report, Row

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- what to expect: written by `make docs` -->", "<!-- end of what to expect -->"

_ROWS = {
    "PyTorch eager": "classifier (PyTorch)",
    "ONNX Runtime fp32": "onnx, fp32",
    "OpenVINO fp32": "openvino, fp32",
    "OpenVINO bf16": "openvino, bf16",
    "OpenVINO int8": "openvino, int8",
    "OpenVINO int8 half the tokens": "openvino, int8, keep 0.5 by energy",
}
"""Subjects of the suite, with the names that the accuracy study gives the same engines."""


def table() -> str:
    """The table as Markdown."""
    return "\n".join(_lines(newest_reports(RESULTS)[0]))


def _lines(report: Report) -> Iterator[str]:
    head = ("engine", "shipped, ms", "speed", "accuracy %", "base, ms", "speed")
    yield table_row(head)
    yield table_row(["---"] * len(head))
    rows = {(row.case.model, row.case.subject): row for row in report.rows if row.case.kind == "latency"}
    study = json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8"))
    accuracy = {row["name"]: row["accuracy"] for row in study["rows"] if row["use"] == "sound and picture"}
    for subject, name in _ROWS.items():
        shipped, base = rows["shipped", subject], rows["base", subject]
        yield table_row([subject, *_cells(shipped), f"{100 * accuracy[name]:.2f}", *_cells(base)])


def _cells(row: Row) -> tuple[str, str]:
    """Median latency, with an asterisk where it is unstable, and speed with its interval."""
    assert row.latency is not None
    median = f"{row.latency.p50_ms:.4g}{'*' if row.status == 'unstable' else ''}"
    if row.speed is None or row.is_reference:
        return median, "reference"
    return median, f"{row.speed.ratio:.2f} ({row.speed.low:.2f}-{row.speed.high:.2f})"


if __name__ == "__main__":
    changed = replace_between(ROOT / "README.md", BEGIN, END, table())
    sys.stderr.write(f"README.md: {'updated' if changed else 'up to date'}\n")
