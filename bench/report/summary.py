"""Sentences about a benchmark's report: the verdict, the conditions of the figures, and remarks on single rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.records import BOUNDARIES, Report, Row, report_of
from kdcmae.bench.report.table import Block
from kdcmae.bench.report.tables import (
    TITLES,
    absent,
    by_reason,
    fastest_first,
    models,
    overview,
    quality,
    rows_of,
    tables,
)
from kdcmae.bench.run.timing import STABLE_WITHIN, speed_ratio
from kdcmae.drawing.charts import number

__all__ = ["SECTION", "Verdict", "blocks", "conditions", "doubts", "published", "remarks", "verdict"]

_POINTS = 1.0  # of accuracy that the fastest engine may lose


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The engine to ship: the fastest that answers as the reference does.

    Args:
        row: of the engine.
        condition: which engines were considered.
        answers: how well it answers, beside the reference; empty where only its outputs were compared.
        reference: subject that it is compared with.
    """

    row: Row
    condition: str
    answers: str
    reference: str

    @property
    def speed(self) -> str:
        """How many times as fast as the reference it is, with the interval; empty where that is not known."""
        speed = self.row.speed
        if speed is None:
            return ""
        doubt = "; one of the two is unstable" if speed.verdict == "unstable" else ""
        interval = f"95 % interval {speed.low:.2f} to {speed.high:.2f}{doubt}"
        return f"{speed.ratio:.2f} times as fast as {self.reference} ({interval})"

    @property
    def latency(self) -> str:
        """Its median with the interval."""
        latency = self.row.latency
        assert latency is not None
        text = f"{number(latency.p50_ms)} ms ({number(latency.low_ms)} to {number(latency.high_ms)})"
        return f"{text}, unstable" if self.row.status == "unstable" else text

    def __str__(self) -> str:
        details = "; ".join(filter(None, (self.latency, self.speed, self.answers)))
        return f"{self.condition}: {self.row.case.subject}, {details}."


def verdict(report: Report, model: str) -> Verdict | None:
    """The fastest engine of a model that loses at most a point of accuracy; None where no engine qualifies.

    Engines of another modality than the reference's do another task and are left out. Where nothing was classified, an
    engine must pass its parity check instead.
    """
    rows, judged = rows_of(report, model), quality(report, model)
    reference = next((row for row in rows if row.is_reference), None)
    if reference is None:
        return None
    least = judged.of(reference)
    for row in fastest_first(rows):
        share, is_engine = judged.of(row), row.engine is not None and row.tool is None
        if not is_engine or row.modality != reference.modality or row is reference:
            continue
        if least is None:
            if row.parity and row.parity.passed:
                condition = f"Fastest engine with the outputs of {reference.case.subject}"
                return Verdict(row=row, condition=condition, answers="", reference=reference.case.subject)
        elif share is not None and share >= least - _POINTS / 100 - 1e-9:
            condition = f"Fastest engine within {_POINTS:g} point of {reference.case.subject}'s accuracy"
            answers = f"{judged.heading}: {share:.1%}, {reference.case.subject} {least:.1%}"
            if not judged.is_accuracy:
                condition = f"Fastest engine that answers as {reference.case.subject} does"
                answers = f"{judged.heading}: {share:.1%}"
            return Verdict(row=row, condition=condition, answers=answers, reference=reference.case.subject)
    return None


def blocks(report: Report) -> Iterator[Block]:
    """The conditions of a benchmark, what was measured and what was not, and the verdict."""
    yield from conditions(report)
    yield from tables(report)
    yield from remarks(report)
    for model in models(report):
        best = verdict(report, model)
        if best is not None:
            yield f"{model}: {best}" if model else str(best)


def conditions(report: Report) -> list[str]:
    """Everything that the figures depend on, a line each."""
    environment, host = report.environment, report.environment["host"]
    used = dict.fromkeys(row.case.boundary for row in report.rows if row.latency)
    libraries = ", ".join(f"{library} {version}" for library, version in environment["libraries"].items())
    lines = [f"{boundary}: {BOUNDARIES[boundary]}" for boundary in used]
    lines.append(_schedule(report))
    lines.append(
        f"machine: {host['cpu']}, {environment['usable_cpus']} CPUs, {host['system']}; "
        f"{_state(environment['before'], environment['after'])}"
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


def _schedule(report: Report) -> str:
    settings = report.settings
    latencies = [row.latency for row in report.rows if row.latency and row.case.kind == "latency"]
    rounds = sorted({len(latency.window_medians_ms) for latency in latencies})
    left_out = sorted({latency.windows_left_out for latency in latencies} - {0})
    yardstick = sorted({row.yardstick_ms for row in report.rows if row.yardstick_ms})
    return (
        f"batch {settings.batch}, {settings.threads} pinned threads, warm-up {settings.warm_up_s:g} s"
        + (f", {' or '.join(map(str, rounds))} interleaved windows" if rounds else "")
        + (f" ({' or '.join(map(str, left_out))} more left out: the machine was in another state)" if left_out else "")
        + (f"; known work beside them took {number(yardstick[0])} to {number(yardstick[-1])} ms" if yardstick else "")
    )


def _state(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Load, frequency and temperature, before and after."""
    facts = (("load", "load_average_1min"), ("MHz", "cpu_frequency_mhz"), ("°C", "hottest_sensor_celsius"))
    known = [
        f"{label} {number(before[key] or 0)} before, {number(after[key] or 0)} after"
        for label, key in facts
        if before.get(key) is not None and after.get(key) is not None
    ]
    return ", ".join(known) or "its state is not exposed"


def remarks(report: Report) -> Iterator[str]:
    """Remarks on single rows."""
    for reason, rows in by_reason(report.rows).items():
        yield f"{'; '.join(str(row.case) for row in rows)}: {reason}"
    yield from doubts(report)


def doubts(report: Report) -> Iterator[str]:
    """Outputs that differ, engines beside their library's own tool, and unstable rows."""
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
    """Each engine, and its library's call without kdcmae, beside that library's own tool: one file, the same rounds."""
    engines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in report.rows:
        if row.engine and row.latency and row.case.kind == "latency":
            engines[row.case.model, row.engine].append(row)
    for (model, engine), rows in engines.items():
        ours = [row for row in rows if row.case.boundary == "library call" or row.case.subject == engine]
        for theirs in (row for row in rows if row.case.boundary == "tool"):
            for mine in sorted(ours, key=lambda row: row.case.subject == engine):
                assert mine.latency is not None
                assert theirs.latency is not None
                gap = speed_ratio(mine.latency.window_medians_ms, theirs.latency.window_medians_ms)
                yield (
                    f"{model}: {mine.case.subject} took {gap.ratio:.3f} times as long "
                    f"({gap.low:.3f}-{gap.high:.3f}) as {theirs.tool} says of the same file: "
                    f"{number(mine.latency.p50_ms)} and {number(theirs.latency.p50_ms)} ms"
                )


def published(report: Report) -> Iterator[Block]:
    """The report in the documentation: a verdict and a table per model, and what was not measured."""
    host = report.environment["host"]
    page = f"../bench/results/{report.machine_slug}.html"  # seen from docs/
    yield (
        f"{host['cpu']}, {report.settings.threads} threads, batch 1, {report.created[:10]}. Percentiles, memory, "
        f"ceilings, cold starts, sweeps and pictures: [the whole report]({page})."
    )
    if report.self_check is not None and report.self_check.problems:
        yield f"**Not fit for quoting:** {'; '.join(report.self_check.problems)}."
    for model in models(report):
        yield f"{TITLES.get(model, model)}:"
        best = verdict(report, model)
        if best is not None:
            yield f"**{best}**"
        yield overview(report, model)
        reasons = absent(report, model)
        if reasons:
            yield "Not measured here:"
            yield "\n".join(f"- {reason}" for reason in reasons)


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    """The newest report of every machine."""
    for document in documents:
        yield from published(report_of(document))


SECTION = Section(name="suite benchmark", command="readme", kind="benchmark", blocks=_blocks)
