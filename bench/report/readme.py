"""The suite's newest results as Markdown, between two markers of the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdcmae.bench.report.history import machine_slug
from kdcmae.bench.report.markers import replace_between, table_row
from kdcmae.bench.report.records import Report, Row
from kdcmae.bench.report.tables import NONE, Quality, by_reason, median, quality

__all__ = ["BEGIN", "END", "render_markdown", "update_suite"]

BEGIN = "<!-- suite benchmark: written by `kdcmae-bench readme` -->"
END = "<!-- end of suite benchmark -->"

_TITLES = {"shipped": "The model that ships in the package", "base": "The base preset, random weights"}


def update_suite(readme: Path, reports: Sequence[Report]) -> bool:
    """Write the newest report of each machine into a README.

    Args:
        readme: has the two markers, each on a line of its own.
        reports: one per machine.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: a marker is missing.
    """
    body = "\n\n".join(render_markdown(report) for report in reports) or "Nothing is measured yet."
    return replace_between(readme, BEGIN, END, body)


def render_markdown(report: Report) -> str:
    """The tables of one machine."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    host = report.environment["host"]
    yield f"{host['cpu']}, {report.settings.threads} threads, batch 1, {report.created[:10]}. Percentiles, memory,"
    page = f"../bench/results/{machine_slug(report)}.html"  # seen from docs/
    yield f"ceilings, cold starts, sweeps and pictures: [the whole report]({page})."
    if report.self_check is not None and report.self_check.problems:
        yield f"\n**Not fit for quoting:** {'; '.join(report.self_check.problems)}."
    for model in dict.fromkeys(row.case.model for row in report.rows):
        rows = [row for row in report.rows if row.case.model == model and row.case.kind == "latency"]
        told = quality(report, model)
        head = ("engine or peer", "executes", "p50 ms (95 %)", "speed (95 %)", told.heading, "MB")
        yield f"\n{_TITLES.get(model, model)}:\n"
        yield table_row(head)
        yield table_row(["---"] * len(head))
        for row in sorted((row for row in rows if row.latency), key=_p50):
            yield table_row(_cells(row, told))
        absent = [row for row in rows if not row.latency]
        if absent:
            yield "\nNot measured here:\n"
            for reason, group in by_reason(absent).items():
                yield f"- {_plain(reason)}: {', '.join(map(_built, group))}"


def _p50(row: Row) -> float:
    return row.latency.p50_ms if row.latency else 0.0


def _cells(row: Row, told: Quality) -> Iterator[str]:
    yield row.case.subject + (" (unstable)" if row.status == "unstable" else "")
    yield row.computes_in or NONE
    yield median(row)
    if row.is_reference or row.speed is None:
        yield "reference" if row.is_reference else NONE
    else:
        yield f"{row.speed.ratio:.2f} ({row.speed.low:.2f}-{row.speed.high:.2f})"
    yield told.of(row)
    yield f"{row.artifact_bytes / 1e6:.1f}" if row.artifact_bytes else NONE


def _plain(reason: str) -> str:
    """Without what the list's heading says already."""
    return reason.removeprefix("not measured on this hardware: ").removeprefix("left out of the suite: ")


def _built(row: Row) -> str:
    """What has no latency, and what was built all the same."""
    if not (row.artifact_bytes and row.compile_s):
        return row.case.subject
    return f"{row.case.subject} ({row.artifact_bytes / 1e6:.1f} MB built in {row.compile_s:.0f} s)"
