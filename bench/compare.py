"""Two reports of one machine: which cases became slower, or less accurate, beyond what chance and noise explain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from kdcmae.bench.schema import Case, Report, Row
from kdcmae.bench.timing import STABLE_VARIATION, Latency
from kdcmae.bench.yardstick import apart
from kdcmae.errors import DataError

__all__ = ["Change", "Comparison", "compare_reports", "slowdown"]

Outcome = Literal["slower", "faster", "same", "unstable", "less accurate", "lost"]
_REGRESSIONS: tuple[Outcome, ...] = ("slower", "less accurate", "lost")

_CONFIDENCE = 0.95  # that no case at all is called slower by chance
_RESAMPLES = 10_000
# Two runs differ by more than their windows tell (where memory lies, what else was started): windows as steady as a
# stable row's may lie this far apart.
_BETWEEN_RUNS = STABLE_VARIATION


@dataclass(frozen=True, kw_only=True)
class Change:
    """One case in both reports.

    Args:
        case: which.
        outcome: what may be said; ``lost`` was measured before and is not any more.
        ratio: new latency over old, with the bounds of its interval; None where one has none.
        reason: why it is lost, or what else to know.
    """

    case: Case
    outcome: Outcome
    ratio: tuple[float, float, float] | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All the cases of the old report."""

    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Those that became worse."""
        return tuple(change for change in self.changes if change.outcome in _REGRESSIONS)

    @property
    def exit_code(self) -> int:
        """1 where something became worse."""
        return 1 if self.regressions else 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {**asdict(self), "regressions": [str(change.case) for change in self.regressions]}


def compare_reports(old: Report, new: Report) -> Comparison:
    """Look for regressions.

    Args:
        old: the earlier report.
        new: the later one, of the same machine.

    Raises:
        DataError: they are of different machines, or share no case.
    """
    for fact in ("cpu", "cpus", "machine"):
        before, after = old.environment["host"][fact], new.environment["host"][fact]
        if before != after:
            raise DataError(f"the reports are of different machines: {before!r} and {after!r}; compare those of one")
    found = {row.case: row for row in new.rows}
    pairs = [(row, found[row.case]) for row in old.rows if row.case in found and row.latency]
    if not pairs:
        raise DataError("the reports share no measured case; compare runs of the same subjects and settings")
    confidence = 1 - (1 - _CONFIDENCE) / len(pairs)
    return Comparison(changes=tuple(change for pair in pairs for change in _changes(*pair, confidence)))


def slowdown(old: Latency, new: Latency, *, confidence: float, seed: int = 0) -> tuple[float, float, float]:
    """New latency over old: the ratio of the geometric means of their windows, and a bootstrap interval.

    The runs were not interleaved, so windows are drawn from each by itself, and the interval is widened by what two
    runs of the same thing may differ.

    Args:
        old, new: two runs.
        confidence: of the interval.
        seed: of the bootstrap.
    """
    generator = np.random.default_rng(seed)

    def means(latency: Latency) -> np.ndarray:
        logs = np.log(np.asarray(latency.window_medians_ms))
        return logs[generator.integers(len(logs), size=(_RESAMPLES, len(logs)))].mean(axis=1)

    low, high = np.quantile(means(new) - means(old), ((1 - confidence) / 2, (1 + confidence) / 2))
    middle = np.log(new.window_medians_ms).mean() - np.log(old.window_medians_ms).mean()
    return (
        float(np.exp(middle)),
        float(np.exp(low) * (1 - _BETWEEN_RUNS)),
        float(np.exp(high) * (1 + _BETWEEN_RUNS)),
    )


def _changes(old: Row, new: Row, confidence: float) -> Iterator[Change]:
    assert old.latency is not None
    if new.latency is None:
        yield Change(case=old.case, outcome="lost", reason=new.reason)
        return
    if old.accuracy and new.accuracy and new.accuracy.high < old.accuracy.low:
        drop = f"{old.accuracy.top1:.1%} before, {new.accuracy.top1:.1%} now"
        yield Change(case=old.case, outcome="less accurate", reason=drop)
    ratio = slowdown(old.latency, new.latency, confidence=confidence)
    if old.yardstick_ms and new.yardstick_ms and apart(old.yardstick_ms, new.yardstick_ms):
        states = f"the machine was in another state: known work took {old.yardstick_ms:.2f} ms, now"
        yield Change(case=old.case, outcome="unstable", ratio=ratio, reason=f"{states} {new.yardstick_ms:.2f} ms")
    elif not (old.latency.stable and new.latency.stable):
        yield Change(case=old.case, outcome="unstable", ratio=ratio)
    elif ratio[1] > 1:
        yield Change(case=old.case, outcome="slower", ratio=ratio)
    else:
        yield Change(case=old.case, outcome="faster" if ratio[2] < 1 else "same", ratio=ratio)
