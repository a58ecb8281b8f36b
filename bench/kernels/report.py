"""The kernel benchmark's report: every figure for the terminal, and a summary for it and for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from kdcmae.bench.kernels.schema import CaseResult, Comparison, Direction, Report, Result, Timing
from kdcmae.bench.machine.clock import GRAPH_COLD, GRAPH_WARM, PLAIN_COLD, PLAIN_WARM
from kdcmae.bench.report.envelope import from_plain
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.records import DeviceCeilings
from kdcmae.bench.report.table import Block, Column, Table, Tone, percent, table
from kdcmae.bench.run.timing import SpeedRatio

__all__ = ["NOT_MEASURED", "SECTION", "blocks"]

NOT_MEASURED = "not measured on a GPU yet"

_PASSES = {"forward": "forward", "backward": "backward", "both": "forward + backward"}
_CONDITIONS = tuple(map(str, (PLAIN_WARM, PLAIN_COLD, GRAPH_WARM, GRAPH_COLD)))


def blocks(report: Report) -> Iterator[Block]:
    """Everything that was measured, why the rest was not, and the summary."""
    for case in report.cases:
        yield _case_table(case, report.ceilings)
        yield from _reasons(case)
        if not report.settings.quick:
            yield from _advice(case)
    yield _summary(report, title="Summary")
    yield _machine_line(report)
    if report.settings.quick:
        yield "--quick: tiny sizes, and perhaps interpreted kernels; these timings mean nothing"


def _published(documents: Sequence[Document]) -> Iterator[Block]:
    """The newest report of a GPU and the newest of a CPU; dry runs are left out."""
    reports: list[Report] = [from_plain(Report, document) for document in documents]
    newest = {report.device["type"]: report for report in reports if not report.settings.quick}
    if "cuda" not in newest:
        yield f"The kernels are {NOT_MEASURED}."
    for device in ("cuda", "cpu"):
        if device in newest:
            yield _machine_line(newest[device])
            yield _summary(newest[device])


SECTION = Section(name="kernel benchmark", command="readme", kind="kernels", blocks=_published)


def _case_table(case: CaseResult, ceilings: DeviceCeilings) -> Table:
    timed = {direction: None for result in case.results for direction in result.timings}
    rows: list[tuple[Direction, Mapping[str, Timing], Result]] = [
        (direction, result.timings[direction], result)
        for direction in timed
        for result in case.results
        if result.timings.get(direction)
    ]
    under = {condition for _, timings, _ in rows for condition in timings}
    rate = partial(Column, text=lambda value: f"{value:.4g}")
    columns = (
        Column(title="direction", value=lambda row: row[0], align="left"),
        Column(title="contender", value=lambda row: row[2].name, align="left"),
        Column(title="error", value=lambda row: row[2].error, text=lambda error: f"{error:.1e}"),
        *(_span_column(condition) for condition in _CONDITIONS if condition in under),
        rate(title="GB/s", value=lambda row: _rates(case, row, ceilings).get("bytes")),
        rate(title="TFLOP/s", value=lambda row: _rates(case, row, ceilings).get("flop")),
        Column(
            title="of the floor",
            value=lambda row: _rates(case, row, ceilings).get("floor"),
            text=percent(0, unit="%"),
        ),
    )
    return table(f"{case.name}: {case.samples} per call, {case.dtype}", columns, rows)


def _span_column(condition: str) -> Column:
    """Median, and 20th to 80th percentile."""
    return Column(
        title=condition,
        value=lambda row: row[1].get(condition),
        text=lambda timing: _time_text(timing.median_us, timing.p20_us, timing.p80_us),
    )


def _rates(
    case: CaseResult, row: tuple[Direction, Mapping[str, Timing], Result], ceilings: DeviceCeilings
) -> dict[str, float]:
    """Achieved GB/s and TFLOP/s, and the floor's share of the time, under the last condition timed."""
    direction, timings, _ = row
    work = case.work.get(direction)
    if work is None:
        return {}
    median_us = next(timings[condition].median_us for condition in reversed(_CONDITIONS) if condition in timings)
    return {
        "bytes": 1e-3 * work.bytes / median_us,
        "flop": 1e-6 * work.flop / median_us,
        "floor": ceilings.floor_us(work.bytes, work.flop) / median_us,
    }


def _reasons(case: CaseResult) -> Iterator[str]:
    for result in case.results:
        if result.reason:
            yield f"  {result.name}: {result.status}: {result.reason}"


def _advice(case: CaseResult) -> Iterator[str]:
    """Cases that the kernels' table routes to the slower implementation."""
    better = _better_route(case)
    if case.routed_to and better and better != case.routed_to:
        yield f"  the table sends this case to the {case.routed_to}, but forward and backward the {better} is faster"


def _better_route(case: CaseResult) -> str | None:
    """``kernel`` or ``vendor``, whichever was faster forward and backward; None where that is not known."""
    for comparison in case.comparisons:
        if comparison.direction == "both" and comparison.subject == "kernel":
            if comparison.speed.low > 1:
                return "kernel"
            return "vendor" if comparison.speed.high < 1 else None
    return None


def _summary(report: Report, *, title: str = "") -> Table:
    """A row per comparison: our code, the code that it is compared with, and how many times as fast it is."""
    left = partial(Column, align="left")
    columns = (
        left(title="case", value=lambda row: row[0].name),
        left(title="pass", value=lambda row: _PASSES[row[1].direction]),
        left(title="ours", value=lambda row: f"{row[1].subject} {_rate(row[0], row[1], row[1].subject)}"),
        left(title="against", value=lambda row: row[1], text=_against),
        left(title="theirs", value=lambda row: _rate(row[0], row[1], row[1].baseline)),
        Column(title="times as fast (95 % interval)", value=lambda row: row[1].speed, text=_speed),
        Column(title="target", value=lambda row: row[1], text=_target, tone=_tone),
    )
    return table(title, columns, [(case, comparison) for case in report.cases for comparison in case.comparisons])


def _machine_line(report: Report) -> str:
    """The device, the versions, and what the device does at most."""
    ceilings, libraries = report.ceilings, report.environment["libraries"]
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "triton") if name in libraries)
    return (
        f"{report.device['name']}; {versions}; kdcmae {report.kdcmae_version} "
        f"({report.environment['git_commit'] or 'commit unknown'}), {report.created[:10]}. "
        f"Ceilings in this run: copy {ceilings.copy_bytes_per_s / 1e12:.3g} TB/s, {ceilings.matmul_dtype} "
        f"matmul {ceilings.matmul_flop_per_s / 1e12:.4g} TFLOP/s, timer {ceilings.timer_floor_us:.1f} us."
    )


def _time_text(*times_us: float) -> str:
    """Four significant digits of each, in the unit that suits the first."""
    unit, scale = ("us", 1.0) if times_us[0] < 1e4 else ("ms", 1e3)
    first, *others = (f"{time_us / scale:.4g}" for time_us in times_us)
    return f"{first} {unit}" + (f" ({'-'.join(others)})" if others else "")


def _rate(case: CaseResult, comparison: Comparison, name: str) -> str:
    """The median under the compared condition; of a pretraining step clips per second too."""
    median_us = case.result(name).timings[comparison.direction][comparison.condition].median_us
    rate = f", {case.samples * 1e6 / median_us:.4g} clips/s" if case.kind == "step" else ""
    return f"{_time_text(median_us)}{rate}"


def _against(comparison: Comparison) -> str:
    baseline, against = comparison.baseline, comparison.against
    return against if against == baseline else f"{against}: {baseline}"


def _speed(speed: SpeedRatio) -> str:
    return f"{speed.ratio:.3g} ({speed.low:.3g}-{speed.high:.3g})"


def _target(comparison: Comparison) -> str:
    if comparison.target is None:
        return ""
    return f"{comparison.target:g}: {'met' if comparison.is_met else 'missed'}"


def _tone(comparison: Comparison) -> Tone:
    return "" if comparison.target is None else "good" if comparison.is_met else "idle"
