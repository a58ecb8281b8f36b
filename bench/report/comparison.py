"""Comparison of two reports of one machine: cases that became slower or less accurate beyond chance and noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from kdcmae.bench.machine.yardstick import apart
from kdcmae.bench.report.records import Case, Report, Row
from kdcmae.bench.run.timing import BETWEEN_MOMENTS, BETWEEN_RUNS, run_ratio
from kdcmae.errors import DataError

__all__ = ["Change", "Comparison", "compare_reports"]

Outcome = Literal["slower", "faster", "same", "unstable", "less accurate", "lost"]
_REGRESSIONS: tuple[Outcome, ...] = ("slower", "less accurate", "lost")

_CONFIDENCE = 0.95  # that no case at all is called slower by chance


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case in both reports.

    Args:
        case: that both reports have.
        outcome: the judgement; ``lost`` was measured before and is no longer.
        ratio: new latency over old, with the bounds of its interval; None if a latency is missing.
        reason: why the case is lost, or a remark.
        agrees: whether the 95 % intervals of both medians overlap; None where a run calls the case unstable or has no
            latency of it, or the machine was in another state.
    """

    case: Case
    outcome: Outcome
    ratio: tuple[float, float, float] | None = None
    reason: str = ""
    agrees: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All the cases of the old report."""

    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Changes for the worse."""
        return tuple(change for change in self.changes if change.outcome in _REGRESSIONS)

    @property
    def agreeing(self) -> tuple[int, int]:
        """Number of cases stable in both runs that agree within their intervals, and number of all stable ones."""
        agree = [change.agrees for change in self.changes if change.agrees is not None]
        return sum(agree), len(agree)

    @property
    def exit_code(self) -> int:
        """1 if there is a regression, else 0."""
        return 1 if self.regressions else 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {**asdict(self), "regressions": [str(change.case) for change in self.regressions]}


def compare_reports(old: Report, new: Report) -> Comparison:
    """Compare two reports.

    Raises:
        DataError: they are of different machines, or share no case.
    """
    for fact in ("cpu", "cpus", "machine"):
        before, after = old.environment["host"][fact], new.environment["host"][fact]
        if before != after:
            raise DataError(f"the reports are of different machines: {before!r} and {after!r}; compare those of one")
    new_rows = {row.case: row for row in new.rows}
    measured = [row for row in old.rows if row.latency]
    pairs = [(row, new_rows[row.case]) for row in measured if row.case in new_rows]
    if not pairs:
        raise DataError("the reports share no measured case; compare runs of the same subjects and settings")
    confidence = 1 - (1 - _CONFIDENCE) / len(pairs)
    changes = [change for pair in pairs for change in _changes(*pair, confidence)]
    return Comparison(changes=(*changes, *_lost(measured, new)))


def _lost(measured: Sequence[Row], new: Report) -> Iterator[Change]:
    """Cases that the new report lacks. A subject that failed before its boundary was known gives its reason."""
    cases = {row.case for row in new.rows}
    reasons = {replace(row.case, boundary="host to host"): row.reason for row in new.rows if not row.latency}
    # A sweep ends when the machine is saturated, so a batch that was not tried is not lost.
    swept = {(row.case.model, row.case.subject) for row in new.rows if row.case.kind == "batch" and row.latency}
    for row in measured:
        case = row.case
        if case not in cases and not (case.kind == "batch" and (case.model, case.subject) in swept):
            reason = reasons.get(replace(case, boundary="host to host"), "the new report has no such case")
            yield Change(case=case, outcome="lost", reason=reason)


def _changes(old: Row, new: Row, confidence: float) -> Iterator[Change]:
    assert old.latency is not None
    if new.latency is None or new.status not in ("measured", "unstable"):
        yield Change(case=old.case, outcome="lost", reason=new.reason)
        return
    if old.accuracy and new.accuracy and new.accuracy.high < old.accuracy.low:
        drop = f"{old.accuracy.top1:.1%} before, {new.accuracy.top1:.1%} now"
        yield Change(case=old.case, outcome="less accurate", reason=drop)
    agrees = None
    if old.status == new.status == "measured":
        agrees = old.latency.low_ms <= new.latency.high_ms and new.latency.low_ms <= old.latency.high_ms
    ratio = run_ratio(
        new.latency.window_medians_ms,
        old.latency.window_medians_ms,
        confidence=confidence,
        # Only latencies of the interleaved run have windows all over it.
        between_runs=BETWEEN_RUNS if old.case.kind == "latency" else BETWEEN_MOMENTS,
    )
    judged = partial(Change, case=old.case, ratio=ratio, agrees=agrees)
    if old.yardstick_ms and new.yardstick_ms and apart(old.yardstick_ms, new.yardstick_ms):
        states = f"the machine was in another state: known work took {old.yardstick_ms:.2f} ms, now"
        yield judged(outcome="unstable", agrees=None, reason=f"{states} {new.yardstick_ms:.2f} ms")
    elif agrees is None:
        yield judged(outcome="unstable", reason=new.reason or old.reason)
    elif ratio[1] > 1:
        yield judged(outcome="slower")
    else:
        yield judged(outcome="faster" if ratio[2] < 1 else "same")
