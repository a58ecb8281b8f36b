"""A report as tables of text: the same for the terminal, the page and the README."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdcmae.bench.report.records import BOUNDARIES, Parity, Report, Row
from kdcmae.bench.run.timing import STABLE_WITHIN, speed_ratio
from kdcmae.drawing.charts import number

__all__ = [
    "CALL_ALONE",
    "Quality",
    "Table",
    "by_reason",
    "conditions",
    "median",
    "name",
    "quality",
    "remarks",
    "tables",
]

NONE = "-"
_P50 = "p50 (95 %)"
CALL_ALONE = " call alone"
_TOOLS = {"benchmark_app": "OpenVINO", "trtexec": "TensorRT"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows.

    Args:
        title: with the boundary of its timings.
        head: names of the columns; the first names the rows.
        rows: as many texts each.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> list[Table]:
    """Every table that the report has rows for."""
    found = []
    for model in dict.fromkeys(row.case.model for row in report.rows):
        rows = [row for row in report.rows if row.case.model == model]
        prefix = f"{model}: " if model else ""
        timed = [row for row in rows if row.case.kind == "latency"]
        found += [
            _latency(f"{prefix}latency in ms", timed, quality(report, model)),
            _start(f"{prefix}start, memory, size", timed),
            _sweep(f"{prefix}batches", [row for row in rows if row.case.kind == "batch"]),
            _sweep(f"{prefix}threads and instances", [row for row in rows if row.case.kind == "threads"]),
            _trips(f"{prefix}clip to label in ms", [row for row in rows if row.case.kind == "clip to label"]),
            _trips(f"{prefix}cold start in ms", [row for row in rows if row.case.kind == "cold start"]),
        ]
    return [table for table in found if table.rows]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What stands beside a model's latencies: accuracy, or how often a subject agrees with the reference.

    Args:
        heading: which of the two, and on how many clips.
        shares: of the clips, by subject.
    """

    heading: str
    shares: Mapping[str, float]

    def of(self, row: Row) -> str:
        """A row's; what only times an engine has that of the engine."""
        subject = row.case.subject
        engine = _engine_of(subject) or subject.removesuffix(CALL_ALONE)
        share = self.shares.get(subject, self.shares.get(engine))
        return NONE if share is None else f"{share:.1%}"


def quality(report: Report, model: str) -> Quality:
    """The accuracy of a model's subjects; where the model has learnt nothing, their agreement with the reference."""
    rows = [row for row in report.rows if row.case.model == model]
    known = {row.case.subject: row.accuracy for row in rows if row.accuracy}
    if known:
        clips = max(accuracy.clips for accuracy in known.values())
        return Quality(
            heading=f"accuracy, {clips} clips",
            shares={subject: accuracy.top1 for subject, accuracy in known.items()},
        )
    reference = next((row.case.subject for row in rows if row.is_reference), "")
    for one in report.agreement:
        if one.model == model and reference in one.subjects:
            flips = one.flips[one.subjects.index(reference)]
            shares = {subject: 1 - flipped / one.clips for subject, flipped in zip(one.subjects, flips, strict=True)}
            return Quality(heading=f"same best class as {reference}, {one.clips} clips", shares=shares)
    return Quality(heading="accuracy", shares={})


def by_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows that have a reason, those of one reason together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.reason:
            groups.setdefault(row.reason, []).append(row)
    return groups


def conditions(report: Report) -> list[str]:
    """What the figures mean nothing without, a line each."""
    environment, settings, host = report.environment, report.settings, report.environment["host"]
    used = dict.fromkeys(row.case.boundary for row in report.rows if row.latency)
    before, after = environment["before"], environment["after"]
    libraries = ", ".join(f"{library} {version}" for library, version in environment["libraries"].items())
    turns = [row.latency for row in report.rows if row.latency and row.case.kind == "latency"]
    rounds = {len(latency.window_medians_ms) for latency in turns}
    left_out = sorted({latency.windows_left_out for latency in turns} - {0})
    yardstick = sorted({row.yardstick_ms for row in report.rows if row.yardstick_ms})
    lines = [f"{boundary}: {BOUNDARIES[boundary]}" for boundary in used]
    lines.append(
        f"batch {settings.batch}, {settings.threads} pinned threads, warm-up {settings.warm_up_s:g} s"
        + (f", {' or '.join(map(str, sorted(rounds)))} interleaved windows" if rounds else "")
        + (f" ({' or '.join(map(str, left_out))} more left out: the machine was in another state)" if left_out else "")
        + (f"; known work beside them took {number(yardstick[0])} to {number(yardstick[-1])} ms" if yardstick else "")
    )
    lines.append(
        f"machine: {host['cpu']}, {environment['usable_cpus']} CPUs, {host['system']}; {_state(before, after)}"
    )
    lines.append(
        f"versions: kdcmae {report.kdcmae_version} ({environment['git_commit'] or 'commit unknown'}), "
        f"Python {host['python']}, {libraries}; {report.created}"
    )
    if report.ceilings is not None:
        rates = ", ".join(
            f"{rate / 1e9:.0f} G{'OP' if name == 'int8' else 'FLOP'}/s {name}"
            for name, rate in report.ceilings.flop_per_s.items()
        )
        lines.append(f"ceilings: {rates}, copying {report.ceilings.copy_bytes_per_s / 1e9:.1f} GB/s")
    counters = dict.fromkeys(row.energy.source for row in report.rows if row.energy)
    if counters:
        lines.append(f"energy: {'; '.join(counters)}")
    if report.self_check is not None:
        lines.append(f"self-check: {'; '.join(report.self_check.problems) or 'clock and machine are sound'}")
    if report.self_check is not None and report.self_check.problems:
        lines.append("THE MACHINE WAS NOT FIT FOR MEASURING: do not quote these figures")
    return lines


def remarks(report: Report) -> Iterator[str]:
    """What has to be said about single rows."""
    for reason, rows in by_reason(report.rows).items():
        yield f"{'; '.join(str(row.case) for row in rows)}: {reason}"
    for row in report.rows:
        if row.parity and not row.parity.passed:
            how = "cannot be compared" if row.parity.error is None else f"differ by {row.parity.error:.1e}"
            allowed = f", allowed {row.parity.tolerance:.1e}" if row.parity.tolerance is not None else ""
            yield (
                f"{row.case}: its outputs and those of {row.parity.against} {how}{allowed}: "
                "they do not compute the same"
            )
    yield from _same_graph(report)
    if any(row.status == "unstable" for row in report.rows):
        yield (
            f"unstable: the windows tell their median no better than +-{STABLE_WITHIN:.1%}, or the machine changed; "
            "no winner is named. Close other programs, or give more --seconds"
        )


def _same_graph(report: Report) -> Iterator[str]:
    """Each engine, and its library's call alone, beside that library's own tool: one file, the same rounds."""
    timed = {(row.case.model, row.case.subject): row.latency for row in report.rows if row.case.kind == "latency"}
    for (model, subject), theirs in timed.items():
        engine, tool = _engine_of(subject), subject.partition(" ")[0]
        for mine in (f"{engine}{CALL_ALONE}", engine):
            ours = timed.get((model, mine))
            if theirs is None or ours is None:
                continue
            gap = speed_ratio(ours.window_medians_ms, theirs.window_medians_ms)
            yield (
                f"{model}: {mine} took {gap.ratio:.3f} times as long ({gap.low:.3f}-{gap.high:.3f}) as {tool} says of "
                f"the same file: {number(ours.p50_ms)} and {number(theirs.p50_ms)} ms"
            )


def _engine_of(subject: str) -> str:
    """The engine that a library's own tool runs; empty for other subjects."""
    tool, _, precision = subject.partition(" ")
    return f"{_TOOLS[tool]} {precision}" if tool in _TOOLS else ""


def name(row: Row) -> str:
    """The subject and what it computes in."""
    precision = row.computes_in if row.computes_in and row.computes_in not in row.case.subject else ""
    return f"{row.case.subject} ({precision})" if precision else row.case.subject


def median(row: Row) -> str:
    """The median latency in ms and its 95 % interval."""
    latency = row.latency
    return f"{number(latency.p50_ms)} ({number(latency.low_ms)}-{number(latency.high_ms)})" if latency else NONE


def _latency(title: str, rows: Sequence[Row], told: Quality) -> Table:
    head = ("subject", _P50, "p90", "p99", "mean", "variation", "samples/s", "speed, 95 % interval", "parity")
    return Table(
        title=title,
        head=(*head, told.heading, "of ceiling"),
        rows=tuple(
            (
                name(row),
                *_latency_cells(row),
                _number(row.throughput_samples_per_s),
                _speed(row),
                _parity(row.parity),
                told.of(row),
                f"{row.floor.fraction:.0%} of {row.floor.precision}" if row.floor else NONE,
            )
            for row in rows
        ),
    )


def _start(title: str, rows: Sequence[Row]) -> Table:
    head = ("subject", "load ms", "first ms", "calls", "peak MB", "GPU MB", "artifact MB", "compile s", "J/sample")
    return Table(
        title=title,
        head=(*head, "self-test", "status"),
        rows=tuple(
            (
                name(row),
                _number(row.load_ms),
                _number(row.first_inference_ms),
                str(row.latency.count) if row.latency else NONE,
                _mega(row.peak_rss_bytes),
                _mega(row.device_memory_bytes),
                _mega(row.artifact_bytes),
                _number(row.compile_s),
                _number(row.energy.joule_per_sample) if row.energy else NONE,
                _error(row.self_test.error, row.self_test.passed) if row.self_test else NONE,
                row.status,
            )
            for row in rows
        ),
    )


def _sweep(title: str, rows: Sequence[Row]) -> Table:
    return Table(
        title=title,
        head=("subject", "batch", "instances x threads", f"{_P50} ms", "p99 ms", "variation", "samples/s", "status"),
        rows=tuple(
            (
                name(row),
                str(row.case.batch),
                f"{row.case.instances} x {row.case.threads}",
                median(row),
                _number(row.latency.p99_ms if row.latency else None),
                f"{row.latency.window_variation:.1%}" if row.latency else NONE,
                _number(row.throughput_samples_per_s),
                row.status,
            )
            for row in rows
        ),
    )


def _trips(title: str, rows: Sequence[Row]) -> Table:
    return Table(
        title=title,
        head=("subject", _P50, "p90", "p99", "mean", "variation", "stages", "status"),
        rows=tuple(
            (
                name(row),
                *_latency_cells(row),
                ", ".join(f"{stage} {number(value)}" for stage, value in (row.stages_ms or {}).items()) or NONE,
                row.status,
            )
            for row in rows
        ),
    )


def _latency_cells(row: Row) -> tuple[str, ...]:
    latency = row.latency
    if latency is None:
        return (NONE,) * 5
    numbers = (latency.p90_ms, latency.p99_ms, latency.mean_ms)
    return (median(row), *map(_number, numbers), f"{latency.window_variation:.1%}")


def _number(value: float | None) -> str:
    return NONE if value is None else number(value)


def _mega(size_bytes: int | None) -> str:
    return f"{size_bytes / 1e6:.0f}" if size_bytes else NONE


def _parity(parity: Parity | None) -> str:
    return _error(parity.error, parity.passed) if parity else NONE


def _error(error: float | None, passed: bool) -> str:
    text = "not finite" if error is None else f"{error:.1e}"
    return text if passed else f"{text} FAILED"


def _speed(row: Row) -> str:
    if row.is_reference:
        return "reference"
    if row.speed is None:
        return NONE
    return f"{row.speed.ratio:.2f}x ({row.speed.low:.2f}-{row.speed.high:.2f}) {row.speed.verdict}"


def _state(before: dict[str, float | None], after: dict[str, float | None]) -> str:
    """Load, frequency and temperature, before and after."""
    facts = (("load", "load_average_1min"), ("MHz", "cpu_frequency_mhz"), ("°C", "hottest_sensor_celsius"))
    told = [
        f"{label} {number(before[key] or 0)} before, {number(after[key] or 0)} after"
        for label, key in facts
        if before.get(key) is not None and after.get(key) is not None
    ]
    return ", ".join(told) or "its state is not exposed"
