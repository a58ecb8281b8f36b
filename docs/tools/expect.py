"""Write the README's table of what to expect, from the suite's newest run and the accuracy study.

python docs/tools/expect.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from kdcmae.bench.report.history import stored_documents
from kdcmae.bench.report.records import Row, report_of
from kdcmae.bench.report.rendering import render_markdown, replace_between
from kdcmae.bench.report.table import Column, Table, interval, percent

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


_COLUMNS = (
    Column(title="engine", value=str, align="left"),
    *(Column(title="shipped, ms", value=str), Column(title="speed", value=str, text=interval)),
    Column(title="accuracy %", value=str, text=percent(2, unit="")),
    *(Column(title="base, ms", value=str), Column(title="speed", value=str, text=interval)),
)


def table() -> str:
    """The table as Markdown; the reference has no speed."""
    stored = stored_documents(RESULTS)
    report, study = report_of(stored["benchmark"][0]), stored["accuracy"][-1]
    rows = {(row.case.model, row.case.subject): row for row in report.rows if row.case.kind == "latency"}
    accuracy = {row["name"]: row["accuracy"] for row in study["rows"] if row["use"] == "sound and picture"}
    cells = tuple(
        (subject, *_measured(rows["shipped", subject]), accuracy[name], *_measured(rows["base", subject]))
        for subject, name in _ROWS.items()
    )
    return render_markdown([Table(title="", columns=_COLUMNS, rows=cells)])


def _measured(row: Row) -> tuple[object, ...]:
    """Median latency, with an asterisk where it is unstable, and speed."""
    assert row.latency is not None
    median = f"{row.latency.p50_ms:.4g}{'*' if row.status == 'unstable' else ''}"
    return median, None if row.is_reference else row.speed


if __name__ == "__main__":
    changed = replace_between(ROOT / "README.md", BEGIN, END, table())
    sys.stderr.write(f"README.md: {'updated' if changed else 'up to date'}\n")
