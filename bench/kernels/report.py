"""The kernel benchmark on the terminal: every figure first, what they come to last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdcmae.bench.kernels.rows import HEADINGS, comparison_rows, machine_line, time_text
from kdcmae.bench.kernels.schema import CaseResult, Ceilings, Direction, Report, Timing
from kdcmae.bench.machine.clock import GRAPH_COLD, GRAPH_WARM, PLAIN_COLD, PLAIN_WARM
from kdcmae.terminal import say, table

__all__ = ["print_report"]

_NONE = "-"
_CONDITIONS = tuple(map(str, (PLAIN_WARM, PLAIN_COLD, GRAPH_WARM, GRAPH_COLD)))


def print_report(report: Report) -> None:
    """Print what was measured, and what was not and why."""
    for case in report.cases:
        say(_case_table(case, report.ceilings))
        for line in (*_reasons(case), *([] if report.settings.quick else _advice(case))):
            say(line)
    say(_summary(report))
    say(machine_line(report.to_dict()))
    if report.settings.quick:
        say("--quick: tiny sizes, and perhaps interpreted kernels; these timings mean nothing")


def _case_table(case: CaseResult, ceilings: Ceilings) -> str:
    conditions = _conditions(case)
    head = ("direction", "contender", "error", *conditions, "GB/s", "TFLOP/s", "of the floor")
    rows = []
    for direction in _directions(case):
        for result in case.results:
            timings = result.timings.get(direction)
            if timings:
                error = _NONE if result.error is None else f"{result.error:.1e}"
                spans = (_span(timings.get(condition)) for condition in conditions)
                rows.append((direction, result.name, error, *spans, *_rates(case, direction, timings, ceilings)))
    title = f"\n{case.name}: {case.samples} per call, {case.dtype}"
    return table(head, rows, title=title, right=range(2, len(head)))


def _directions(case: CaseResult) -> dict[Direction, None]:
    """Those that were timed, in order."""
    return {direction: None for result in case.results for direction in result.timings}


def _conditions(case: CaseResult) -> list[str]:
    """Those that anything was timed under, in order."""
    timed = {condition for result in case.results for timings in result.timings.values() for condition in timings}
    return [condition for condition in _CONDITIONS if condition in timed]


def _span(timing: Timing | None) -> str:
    """Median, and 20th to 80th percentile."""
    if timing is None:
        return _NONE
    return time_text(timing.median_us, timing.p20_us, timing.p80_us)


def _rates(
    case: CaseResult, direction: Direction, timings: Mapping[str, Timing], ceilings: Ceilings
) -> tuple[str, str, str]:
    """Achieved bandwidth, achieved FLOP rate, and the floor's share of the time, under the last condition timed."""
    work = case.work.get(direction)
    if work is None:
        return _NONE, _NONE, _NONE
    median_us = next(timings[condition].median_us for condition in reversed(_CONDITIONS) if condition in timings)
    return (
        f"{1e-3 * work.bytes / median_us:.4g}",
        f"{1e-6 * work.flop / median_us:.4g}",
        f"{ceilings.floor_us(work) / median_us:.0%}",
    )


def _reasons(case: CaseResult) -> Iterator[str]:
    for result in case.results:
        if result.reason:
            yield f"  {result.name}: {result.status}: {result.reason}"


def _advice(case: CaseResult) -> Iterator[str]:
    """Where the kernels' table should change its mind."""
    better = _better_route(case)
    if case.routed_to and better and better != case.routed_to:
        yield f"  the table sends this case to the {case.routed_to}, but forward and backward the {better} is faster"


def _better_route(case: CaseResult) -> str | None:
    """What was faster forward and backward: the kernel, or the best that is not; None where that is not known."""
    for comparison in case.comparisons:
        if comparison.direction == "both" and comparison.subject == "kernel":
            if comparison.speed.low > 1:
                return "kernel"
            return "vendor" if comparison.speed.high < 1 else None
    return None


def _summary(report: Report) -> str:
    rows = (row for case in report.to_dict()["cases"] for row in comparison_rows(case))
    return table(HEADINGS, rows, title="\nSummary")
