"""The schedule of timed windows, and the statistics over what was timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from kdcmae.timing import CallStatistics, call_statistics

__all__ = [
    "BETWEEN_MOMENTS",
    "BETWEEN_RUNS",
    "STABLE_WITHIN",
    "Latency",
    "Schedule",
    "SpeedRatio",
    "Verdict",
    "median_interval",
    "plan_rounds",
    "run_ratio",
    "settled",
    "speed_ratio",
    "summarize",
    "verdict",
]

STABLE_WITHIN = 0.025  # how well windows have to tell their median; no winner is named where they do not
# Two runs differ by more than their windows tell (where memory lies, what else was started): by this much, as five runs
# on a virtual machine did, where the windows are spread over minutes, and by more where they all are of one moment.
BETWEEN_RUNS = 0.04
BETWEEN_MOMENTS = 0.075

_RESAMPLES = 10_000
_MIN_ROUNDS = 10  # a percentile bootstrap over fewer window pairs gives intervals that are too narrow
_SHORT_WINDOW_S = 0.5

Verdict = Literal["faster", "slower", "no difference", "unstable"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The turns of an interleaved run.

    Args:
        rounds: how many turns of every subject have to count.
        most_rounds: when to stop where the windows do not settle, or the machine does not keep still.
        window_s: length of one turn.
    """

    rounds: int
    most_rounds: int
    window_s: float


def plan_rounds(seconds: float, slowest_call_s: float) -> Schedule:
    """Divide the time into many short windows, or into as few as the statistics bear where calls are slow.

    Args:
        seconds: timed seconds per subject.
        slowest_call_s: what one call of the slowest subject takes.
    """
    rounds = max(_MIN_ROUNDS, int(seconds / max(_SHORT_WINDOW_S, slowest_call_s)))
    return Schedule(rounds=rounds, most_rounds=rounds + rounds // 2, window_s=seconds / rounds)


@dataclass(frozen=True, kw_only=True)
class Latency(CallStatistics):
    """Statistics of single calls over all windows.

    Args:
        low_ms, high_ms: the 95 % interval of ``p50_ms``, in which another run is expected too; see :func:`run_ratio`.
        window_medians_ms: the median of each window, in the order they ran.
        window_variation: coefficient of variation of those medians.
        windows_left_out: windows that do not count: the machine was in another state.
    """

    low_ms: float
    high_ms: float
    window_medians_ms: tuple[float, ...]
    window_variation: float
    windows_left_out: int = 0

    @property
    def stable(self) -> bool:
        """Whether the windows tell the median well enough to compare this with anything."""
        return _well_known(self.window_medians_ms)


def settled(windows_ms: Sequence[Sequence[float]]) -> bool:
    """Whether windows tell the median well enough for :attr:`Latency.stable`.

    Args:
        windows_ms: per window the latencies that :func:`kdcmae.timing.time_window` gave.
    """
    return _well_known([float(np.median(window)) for window in windows_ms])


def _well_known(window_medians_ms: Sequence[float]) -> bool:
    level, low, high = run_ratio(window_medians_ms, confidence=0.95, between_runs=0.0)
    return (high - low) / 2 <= STABLE_WITHIN * level


def summarize(
    windows_ms: Sequence[Sequence[float]], *, left_out: int = 0, between_runs: float = BETWEEN_RUNS
) -> Latency:
    """Summarise the calls of two or more windows.

    Args:
        windows_ms: per window the latencies that :func:`kdcmae.timing.time_window` gave.
        left_out: how many others do not count.
        between_runs: as for :func:`run_ratio`.
    """
    calls = call_statistics(np.concatenate([np.asarray(window, dtype=np.float64) for window in windows_ms]))
    medians = np.array([np.median(window) for window in windows_ms])
    low, high = median_interval(calls.p50_ms, medians, between_runs)
    return Latency(
        **asdict(calls),
        low_ms=low,
        high_ms=high,
        window_medians_ms=tuple(medians.tolist()),
        window_variation=call_statistics(medians).coefficient_of_variation,
        windows_left_out=left_out,
    )


def median_interval(
    p50_ms: float, window_medians_ms: Sequence[float] | np.ndarray, between_runs: float = BETWEEN_RUNS
) -> tuple[float, float]:
    """The 95 % interval of a median latency in ms: as far around it as :func:`run_ratio` says of its windows."""
    level, low, high = run_ratio(window_medians_ms, confidence=0.95, between_runs=between_runs)
    return p50_ms * low / level, p50_ms * high / level


def run_ratio(
    windows_ms: Sequence[float] | np.ndarray,
    over_ms: Sequence[float] | np.ndarray = (1.0,),
    *,
    confidence: float,
    between_runs: float = BETWEEN_RUNS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The geometric mean of a run's windows over that of another run, and a bootstrap interval.

    The runs were not interleaved, so windows are drawn from each by itself, and the interval is widened by what two
    runs of the same thing may differ.

    Args:
        windows_ms: the median of each window.
        over_ms: those of the other run; by default one window of 1 ms, so that the ratio is a latency in ms.
        confidence: of the interval.
        between_runs: what two runs differ by, however steady their windows are, as a share.
        seed: of the bootstrap.

    Returns:
        The ratio and the bounds of its interval.
    """
    generator = np.random.default_rng(seed)
    logs, over = np.log(np.asarray(windows_ms)), np.log(np.asarray(over_ms))
    means, means_over = (
        drawn[generator.integers(len(drawn), size=(_RESAMPLES, len(drawn)))].mean(axis=1) for drawn in (logs, over)
    )
    low, high = np.quantile(means - means_over, ((1 - confidence) / 2, (1 + confidence) / 2))
    return (
        float(np.exp(logs.mean() - over.mean())),
        float(np.exp(low) * (1 - between_runs)),
        float(np.exp(high) * (1 + between_runs)),
    )


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """How many times as fast as the reference, with the bounds of its 95 % interval."""

    ratio: float
    low: float
    high: float


def speed_ratio(
    reference_ms: Sequence[float], subject_ms: Sequence[float], *, resamples: int = _RESAMPLES, seed: int = 0
) -> SpeedRatio:
    """Speed against a reference from interleaved windows: the geometric mean of the ratios of window pairs.

    The two windows of a pair ran one after the other, so noise that lasts longer than that cancels out of their
    ratio. The interval is a percentile bootstrap over pairs.

    Args:
        reference_ms: median of each of the reference's windows.
        subject_ms: median of the subject's window in the same rounds.
        resamples: bootstrap samples.
        seed: of the bootstrap.
    """
    logs = np.log(np.asarray(reference_ms)) - np.log(np.asarray(subject_ms))
    draws = np.random.default_rng(seed).integers(len(logs), size=(resamples, len(logs)))
    low, high = np.quantile(logs[draws].mean(axis=1), (0.025, 0.975))
    return SpeedRatio(ratio=float(np.exp(logs.mean())), low=float(np.exp(low)), high=float(np.exp(high)))


def verdict(speed: SpeedRatio, *, stable: bool) -> Verdict:
    """Verdict on a speed ratio, given whether both latencies behind it are stable."""
    if not stable:
        return "unstable"
    if speed.low > 1:
        return "faster"
    return "slower" if speed.high < 1 else "no difference"
