"""Tables of a benchmark's report, by model and kind of case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kdcmae.bench.report.records import LEFT_OUT, NOT_HERE, CaseKind, Parity, Report, Row, SelfTestResult
from kdcmae.bench.report.table import Column, Table, Tone, interval, megabytes, percent, table
from kdcmae.bench.run.timing import Latency
from kdcmae.drawing.charts import number

__all__ = [
    "TITLES",
    "Quality",
    "absent",
    "by_reason",
    "fastest_first",
    "models",
    "overview",
    "quality",
    "rows_of",
    "tables",
]

TITLES = {"shipped": "The model that ships in the package", "base": "The base preset, random weights"}
"""Headings of the suite's models."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Accuracy of a model's subjects, or the share of clips on which a subject agrees with the reference.

    Args:
        heading: which of the two, and on how many clips.
        shares: of the clips, by subject.
        is_accuracy: the shares are accuracies.
    """

    heading: str
    shares: Mapping[str, float]
    is_accuracy: bool = True

    def of(self, row: Row) -> float | None:
        """Share of a row; a tool that only times an engine has the share of that engine."""
        own = self.shares.get(row.case.subject)
        timed_only = row.case.boundary in ("tool", "library call") and row.engine is not None
        return self.shares.get(row.engine) if own is None and timed_only and row.engine else own


def models(report: Report) -> list[str]:
    """Names of the models, in order."""
    return list(dict.fromkeys(row.case.model for row in report.rows))


def rows_of(report: Report, model: str, kind: CaseKind = "latency") -> list[Row]:
    """Rows of one model and one kind of case."""
    return [row for row in report.rows if row.case.model == model and row.case.kind == kind]


def fastest_first(rows: Iterable[Row]) -> list[Row]:
    """Rows with a latency, the shortest median first."""
    return sorted((row for row in rows if row.latency), key=_p50)


def by_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows that have a reason, grouped by it."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.reason:
            groups.setdefault(row.reason, []).append(row)
    return groups


def quality(report: Report, model: str) -> Quality:
    """The accuracy of a model's subjects; of an untrained model their agreement with the reference."""
    rows = [row for row in report.rows if row.case.model == model]
    known = {row.case.subject: row.accuracy for row in rows if row.accuracy}
    if known:
        clips = max(accuracy.clips for accuracy in known.values())
        shares = {subject: accuracy.top1 for subject, accuracy in known.items()}
        return Quality(heading=f"accuracy, {clips} clips", shares=shares)
    reference = next((row.case.subject for row in rows if row.is_reference), "")
    for agreement in report.agreement:
        if agreement.model == model and reference in agreement.subjects:
            flips = agreement.flips[agreement.subjects.index(reference)]
            shares = {
                subject: 1 - flipped / agreement.clips
                for subject, flipped in zip(agreement.subjects, flips, strict=True)
            }
            heading = f"same best class as {reference}, {agreement.clips} clips"
            return Quality(heading=heading, shares=shares, is_accuracy=False)
    return Quality(heading="accuracy", shares={})


def tables(report: Report, *, beside_overview: bool = False) -> list[Table]:
    """Every table that the report has rows for.

    Args:
        report: of a run.
        beside_overview: leave out what :func:`overview` and :func:`absent` say.
    """
    shown = []
    for model in models(report):
        prefix, own = f"{model}: " if model else "", partial(rows_of, report, model)
        latencies = fastest_first(own()) if beside_overview else own()
        compared = () if beside_overview else (_SPEED, _quality(quality(report, model)))
        shown += [
            table(f"{prefix}latency in ms", (*_LATENCY, *compared, _PARITY, _CEILING), latencies),
            table(f"{prefix}start, memory, size", _START, latencies),
            table(f"{prefix}batches", _SWEEP, own("batch")),
            table(f"{prefix}threads and instances", _SWEEP, own("threads")),
            table(f"{prefix}clip to label in ms", _TRIP, own("clip to label")),
            table(f"{prefix}cold start in ms", _TRIP, own("cold start")),
        ]
    return [filled for filled in shown if filled.rows]


def overview(report: Report, model: str) -> Table:
    """The figures that decide which engine to ship: latency, speed and accuracy, the fastest first."""
    subject = Column(
        title="engine or peer",
        value=lambda row: row,
        align="left",
        text=lambda row: row.case.subject + (" (unstable)" if row.status == "unstable" else ""),
    )
    columns = (
        subject,
        _EXECUTES,
        Column(title="p50 ms (95 %)", value=lambda row: row.latency, text=interval),
        Column(title="speed (95 %)", value=_speed_of, text=lambda row: _speed(row, verdict=False), tone=_speed_tone),
        _quality(quality(report, model)),
        Column(title="MB", value=lambda row: row.artifact_bytes, text=megabytes(1)),
    )
    return table("", columns, fastest_first(rows_of(report, model)))


def absent(report: Report, model: str) -> list[str]:
    """Reasons of the cases that have no latency, each with its subjects."""
    rows = (row for row in report.rows if row.case.model == model and not row.latency)
    return [
        f"{_plain(reason)}: {', '.join(dict.fromkeys(map(_built, group)))}" for reason, group in by_reason(rows).items()
    ]


def _plain(reason: str) -> str:
    """A reason without the words that the heading of the list says already."""
    return reason.removeprefix(NOT_HERE).removeprefix(LEFT_OUT)


def _built(row: Row) -> str:
    """A subject without a latency, with size and build time of its engine if there is one."""
    if not (row.artifact_bytes and row.compile_s):
        return row.case.subject
    return f"{row.case.subject} ({row.artifact_bytes / 1e6:.1f} MB built in {row.compile_s:.0f} s)"


def _p50(row: Row) -> float:
    return row.latency.p50_ms if row.latency else 0.0


def _figure(title: str, value: Callable[[Row], float | None], unit: str = "") -> Column:
    return Column(title=f"{title} {unit}".rstrip(), value=value, text=number)


def _of_latency(title: str, value: Callable[[Latency], Any], text: Callable[[Any], str] = number) -> Column:
    return Column(title=title, value=lambda row: row.latency and value(row.latency), text=text)


def _quality(judged: Quality) -> Column:
    return Column(title=judged.heading, value=judged.of, text=percent(unit="%"))


def _speed_of(row: Row) -> Row | None:
    return row if row.is_reference or row.speed else None


def _speed(row: Row, *, verdict: bool = True) -> str:
    if row.speed is None:
        return "reference"
    ratio = interval(row.speed)
    return f"{ratio.replace(' ', 'x ', 1)} {row.speed.verdict}" if verdict else ratio


def _speed_tone(row: Row) -> Tone:
    """Tone of a speed; being slower than the reference is no failure."""
    verdict = row.speed.verdict if row.speed else ""
    return "good" if verdict == "faster" else "idle" if verdict == "unstable" else ""


def _error(result: Parity | SelfTestResult) -> str:
    text = "not finite" if result.error is None else f"{result.error:.1e}"
    return text if result.passed else f"{text} FAILED"


def _passed(result: Parity | SelfTestResult) -> Tone:
    return "" if result.passed else "bad"


def _status_tone(status: str) -> Tone:
    return "" if status == "measured" else "bad" if status == "failed" else "idle"


_SUBJECT = Column(title="subject", value=lambda row: row.case.subject, align="left")
_EXECUTES = Column(title="executes", value=lambda row: row.computes_in, align="left")
_MEDIAN = _of_latency("p50 (95 %)", lambda latency: latency, interval)
_P99 = _of_latency("p99", lambda latency: latency.p99_ms)
_VARIATION = _of_latency("variation", lambda latency: latency.window_variation, percent(unit="%"))
_RATE = _figure("samples/s", lambda row: row.throughput_samples_per_s)
_SPEED = Column(title="speed, 95 % interval", value=_speed_of, text=_speed, tone=_speed_tone)
_PARITY = Column(title="parity", value=lambda row: row.parity, text=_error, tone=_passed)
_STATUS = Column(title="status", value=lambda row: row.status, align="left", tone=_status_tone)
_CEILING = Column(
    title="of ceiling", value=lambda row: row.floor, text=lambda floor: f"{floor.fraction:.0%} of {floor.precision}"
)
_TIMES = (
    _MEDIAN,
    _of_latency("p90", lambda latency: latency.p90_ms),
    _P99,
    _of_latency("mean", lambda latency: latency.mean_ms),
    _VARIATION,
)
_LATENCY = (_SUBJECT, _EXECUTES, *_TIMES, _RATE)
_START = (
    _SUBJECT,
    _figure("load", lambda row: row.load_ms, "ms"),
    _figure("first", lambda row: row.first_inference_ms, "ms"),
    _of_latency("calls", lambda latency: latency.count, str),
    Column(title="peak MB", value=lambda row: row.peak_rss_bytes, text=megabytes()),
    Column(title="GPU MB", value=lambda row: row.device_memory_bytes, text=megabytes()),
    Column(title="artifact MB", value=lambda row: row.artifact_bytes, text=megabytes()),
    _figure("compile", lambda row: row.compile_s, "s"),
    _figure("J/sample", lambda row: row.energy.joule_per_sample if row.energy else None),
    Column(title="self-test", value=lambda row: row.self_test, text=_error, tone=_passed),
    _STATUS,
)
_SWEEP = (
    _SUBJECT,
    Column(title="batch", value=lambda row: row.case.batch),
    Column(title="instances x threads", value=lambda row: f"{row.case.instances} x {row.case.threads}"),
    _MEDIAN,
    _P99,
    _VARIATION,
    _RATE,
    _STATUS,
)
_TRIP = (
    _SUBJECT,
    *_TIMES,
    Column(
        title="stages",
        value=lambda row: row.stages_ms,
        align="left",
        text=lambda stages: ", ".join(f"{stage} {number(value)}" for stage, value in stages.items()),
    ),
    _STATUS,
)
