"""The kernel benchmark on the terminal: every figure first, the summary last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from kdcmae.bench.kernels.rows import machine_line, summary, time_text
from kdcmae.bench.kernels.schema import CaseResult, Ceilings, Direction, Report, Result, Timing
from kdcmae.bench.machine.clock import GRAPH_COLD, GRAPH_WARM, PLAIN_COLD, PLAIN_WARM
from kdcmae.bench.report.rendering import print_blocks
from kdcmae.bench.report.table import Block, Column, Table, percent, table

__all__ = ["print_report"]

_CONDITIONS = tuple(map(str, (PLAIN_WARM, PLAIN_COLD, GRAPH_WARM, GRAPH_COLD)))


def print_report(report: Report) -> None:
    """Print everything that was measured, and why the rest was not."""
    print_blocks(_blocks(report))


def _blocks(report: Report) -> Iterator[Block]:
    for case in report.cases:
        yield _case_table(case, report.ceilings)
        yield from _reasons(case)
        if not report.settings.quick:
            yield from _advice(case)
    document = report.to_dict()
    yield summary(document["cases"], title="Summary")
    yield machine_line(document)
    if report.settings.quick:
        yield "--quick: tiny sizes, and perhaps interpreted kernels; these timings mean nothing"


def _case_table(case: CaseResult, ceilings: Ceilings) -> Table:
    def rate(name: str, value: str, text: Callable[[float], str] = lambda value: f"{value:.4g}") -> Column:
        return Column(title=name, value=lambda row: _rates(case, row[0], row[1], ceilings).get(value), text=text)

    def span(condition: str) -> Column:
        return Column(title=condition, value=lambda row: row[1].get(condition), text=_span)

    columns = (
        Column(title="direction", value=lambda row: row[0], align="left"),
        Column(title="contender", value=lambda row: row[2].name, align="left"),
        Column(title="error", value=lambda row: row[2].error, text=lambda error: f"{error:.1e}"),
        *map(span, _conditions(case)),
        rate("GB/s", "bytes"),
        rate("TFLOP/s", "flop"),
        rate("of the floor", "floor", percent(0, unit="%")),
    )
    rows: list[tuple[Direction, Mapping[str, Timing], Result]] = [
        (direction, result.timings[direction], result)
        for direction in _directions(case)
        for result in case.results
        if result.timings.get(direction)
    ]
    return table(f"{case.name}: {case.samples} per call, {case.dtype}", columns, rows)


def _directions(case: CaseResult) -> dict[Direction, None]:
    """Those that were timed, in order."""
    return {direction: None for result in case.results for direction in result.timings}


def _conditions(case: CaseResult) -> list[str]:
    """Those that anything was timed under, in order."""
    timed = {condition for result in case.results for timings in result.timings.values() for condition in timings}
    return [condition for condition in _CONDITIONS if condition in timed]


def _span(timing: Timing) -> str:
    """Median, and 20th to 80th percentile."""
    return time_text(timing.median_us, timing.p20_us, timing.p80_us)


def _rates(
    case: CaseResult, direction: Direction, timings: Mapping[str, Timing], ceilings: Ceilings
) -> dict[str, float]:
    """Achieved GB/s and TFLOP/s, and the floor's share of the time, under the last condition timed."""
    work = case.work.get(direction)
    if work is None:
        return {}
    median_us = next(timings[condition].median_us for condition in reversed(_CONDITIONS) if condition in timings)
    return {
        "bytes": 1e-3 * work.bytes / median_us,
        "flop": 1e-6 * work.flop / median_us,
        "floor": ceilings.floor_us(work) / median_us,
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
