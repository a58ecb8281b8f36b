"""The suite's newest results as Markdown, between two markers of the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kdcmae.bench.markers import replace_between
from kdcmae.bench.schema import Report, Row
from kdcmae.bench.tables import NONE, conditions, median, name
from kdcmae.charts import number

__all__ = ["BEGIN", "END", "render_markdown", "update_suite"]

BEGIN = "<!-- suite benchmark: written by `kdcmae-bench readme` -->"
END = "<!-- end of suite benchmark -->"

_HEAD = (
    "subject",
    "p50 ms (95 %)",
    "p99 ms",
    "speed, 95 % interval",
    "accuracy",
    "parity",
    "of ceiling",
    "cold start ms",
    "MB",
)
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
    yield f"{host['cpu']}, {report.settings.threads} threads, batch 1, {report.created[:10]}; the whole report is"
    yield "in `bench/results/`."
    if report.self_check is not None and report.self_check.problems:
        yield f"\n**Not fit for quoting:** {'; '.join(report.self_check.problems)}."
    if report.ceilings is not None:
        yield next(f"\n{line[0].upper()}{line[1:]}." for line in conditions(report) if line.startswith("ceilings"))
    for model in dict.fromkeys(row.case.model for row in report.rows):
        rows = [row for row in report.rows if row.case.model == model]
        yield f"\n{_TITLES.get(model, model)}:\n"
        yield _row(_HEAD)
        yield _row(["---"] * len(_HEAD))
        timed = [row for row in rows if row.case.kind == "latency" and row.latency]
        for row in sorted(timed, key=lambda row: row.latency.p50_ms if row.latency else 0.0):
            yield _row(_cells(row, rows))
        absent = [row for row in rows if row.case.kind == "latency" and not row.latency]
        if absent:
            yield f"\nNot measured here: {'; '.join(map(_absent, absent))}."


def _cells(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    assert row.latency is not None
    starts = [one.latency for one in rows if one.case.kind == "cold start" and one.case.subject == row.case.subject]
    yield name(row) + (" (unstable)" if row.status == "unstable" else "")
    yield median(row)
    yield number(row.latency.p99_ms)
    if row.is_reference or row.speed is None:
        yield "reference" if row.is_reference else NONE
    else:
        yield f"{row.speed.ratio:.2f} ({row.speed.low:.2f}-{row.speed.high:.2f})"
    yield f"{row.accuracy.top1:.1%}" if row.accuracy else NONE
    yield f"{row.parity.error:.0e}" if row.parity and row.parity.error is not None else NONE
    yield f"{row.floor.fraction:.0%}" if row.floor else NONE
    yield number(starts[0].p50_ms) if starts and starts[0] else NONE
    yield f"{row.artifact_bytes / 1e6:.1f}" if row.artifact_bytes else NONE


def _absent(row: Row) -> str:
    """Why there is no latency, and what was built all the same."""
    reason = row.reason.removeprefix("not measured on this hardware: ").removeprefix("left out of the suite: ")
    built = (
        f"{row.artifact_bytes / 1e6:.1f} MB built in {row.compile_s:.0f} s; "
        if row.artifact_bytes and row.compile_s
        else ""
    )
    return f"{row.case.subject} ({built}{reason})"


def _row(cells: Sequence[str] | Iterator[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
