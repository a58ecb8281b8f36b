"""A benchmark's report on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdcmae.bench.schema import BOUNDARY, Report, Row
from kdcmae.bench.timing import STABLE_VARIATION

__all__ = ["print_report"]

_WIDTH = 116  # where the output is no terminal
_NONE = "-"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print what was measured, under which conditions, and what was not.

    Args:
        report: of a benchmark.
        console: where to; stdout by default.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    console.print("\n".join(_conditions(report)), markup=False, soft_wrap=True)
    console.print(_latency_table(report))
    console.print(_start_table(report.rows))
    for line in _remarks(report):
        console.print(escape(line), soft_wrap=True)


def _conditions(report: Report) -> list[str]:
    environment, settings, schedule = report.environment, report.settings, report.schedule
    host = environment["host"]
    load = environment["load_average_1min"]
    libraries = ", ".join(f"{name} {version}" for name, version in environment["libraries"].items())
    return [
        f"measured: {BOUNDARY}",
        f"          batch {settings.batch}, threads {settings.threads}, warm-up {settings.warm_up_s:g} s"
        + (f", {schedule.rounds} interleaved windows of {schedule.window_s:.2g} s" if schedule else ""),
        f"machine:  {host['cpu']}, {environment['usable_cpus']} CPUs, {host['system']}"
        + (f", load {load:.2f} at start" if load is not None else ""),
        f"versions: kdcmae {report.kdcmae_version} ({environment['git_commit'] or 'commit unknown'}), "
        f"Python {host['python']}, {libraries}",
    ]


def _latency_table(report: Report) -> Table:
    table = _table("Latency in ms", "p50", "p90", "p99", "mean", "variation", "samples/s", "parity")
    table.add_column("speed, 95 % interval")
    for index, row in enumerate(report.rows):
        latency = row.latency
        numbers = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.mean_ms) if latency else (None,) * 4
        table.add_row(
            _name(row),
            *map(_number, numbers),
            f"{latency.window_variation:.1%}" if latency else _NONE,
            _number(row.throughput_samples_per_s),
            _parity(row),
            "reference" if index == report.reference and latency else _speed(row),
        )
    return table


def _start_table(rows: Sequence[Row]) -> Table:
    table = _table("Start and memory", "load ms", "first ms", "calls", "peak MB", "self-test error")
    table.add_column("status")
    for row in rows:
        table.add_row(
            _name(row),
            _number(row.load_ms),
            _number(row.first_inference_ms),
            str(row.latency.count) if row.latency else _NONE,
            f"{row.peak_rss_bytes / 1e6:.0f}" if row.peak_rss_bytes else _NONE,
            _error(row.self_test.error, row.self_test.passed) if row.self_test else _NONE,
            row.status if row.status == "measured" else f"[yellow]{row.status}[/]",
        )
    return table


def _remarks(report: Report) -> list[str]:
    remarks = [f"{row.subject}: {row.reason}" for row in report.rows if row.reason]
    for row in report.rows:
        if row.parity and not row.parity.passed:
            how = "cannot be compared" if row.parity.error is None else f"differ by {row.parity.error:.1e}"
            reference = report.rows[report.reference or 0].subject
            remarks.append(
                f"{row.subject}: its outputs and those of {reference} {how}, allowed {row.parity.tolerance:.1e}: "
                "they do not compute the same"
            )
    if any(row.status == "unstable" for row in report.rows):
        remarks.append(
            f"unstable: window medians vary by more than {STABLE_VARIATION:.1%}; no winner is named. "
            "Close other programs, or give more --seconds"
        )
    return remarks


def _table(title: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
    table.add_column("subject", overflow="fold", max_width=30)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _name(row: Row) -> str:
    precision = f" ({row.computes_in})" if row.computes_in else ""
    return escape(f"{row.subject}{precision}")


def _number(value: float | None) -> str:
    """Four significant digits, without an exponent."""
    if value is None:
        return _NONE
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _parity(row: Row) -> str:
    return _error(row.parity.error, row.parity.passed) if row.parity else _NONE


def _error(error: float | None, passed: bool) -> str:
    text = "not finite" if error is None else f"{error:.1e}"
    return text if passed else f"[red]{text}[/]"


def _speed(row: Row) -> str:
    if row.speed is None:
        return _NONE
    speed = row.speed
    colour = {"faster": "green", "slower": "red"}.get(speed.verdict, "yellow")
    return f"{speed.ratio:.2f}x ({speed.low:.2f}-{speed.high:.2f}) [{colour}]{speed.verdict}[/]"
