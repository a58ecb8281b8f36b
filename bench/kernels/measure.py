"""One case from problem to result: check every contender, time those that are right, compare."""

from __future__ import annotations

import importlib.util
import itertools
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kdcmae.bench.kernels.case import Baseline, Case, Contender, Problem
from kdcmae.bench.kernels.schema import CaseResult, Comparison, Direction, Result, Timing
from kdcmae.bench.machine.clock import GRAPH_COLD, PLAIN_COLD, PLAIN_WARM, Clock, Window
from kdcmae.bench.run.timing import speed_ratio
from kdcmae.errors import KdcmaeError

__all__ = ["measure_case", "summarize"]

_FEWEST_ROUNDS = 4  # a multiple of two, so that going back and forth evens out
_COMPARED_UNDER = (GRAPH_COLD, PLAIN_COLD, PLAIN_WARM)
"""The condition nearest to training comes first: there a launch overlaps with the kernel before it, and other layers
fill the cache."""


def measure_case(case: Case, clock: Clock, *, seconds: float, rounds: int, seed: int) -> CaseResult:
    """Check, time and compare the contenders of a case.

    Args:
        case: what to measure.
        clock: of the case's device.
        seconds: timed seconds, over all contenders, directions and conditions.
        rounds: turns of every contender, at most.
        seed: of the bootstrap.
    """
    with clock.running():
        results = {
            name: Result(name=name, ours=False, status="absent", reason=why) for name, why in case.absent.items()
        }
        results |= {result.name: result for result in _check(case)}
        problem = case.timed()
        for direction in case.directions:
            running = [contender for contender in problem.contenders if results[contender.name].status == "measured"]
            turns = _Turns(case, clock, problem, direction)
            for contender in running:
                turns.enter(contender)
            turns.take(seconds / len(case.directions), rounds)
            for contender in running:
                results[contender.name] = turns.add_to(results[contender.name])
    return CaseResult(
        name=case.name,
        kind=case.kind,
        samples=case.samples,
        dtype=str(case.dtype).removeprefix("torch."),
        routed_to=case.routed_to,
        work=case.work,
        results=tuple(results.values()),
        comparisons=tuple(_compare(case, results, seed)),
    )


def summarize(rounds_us: Sequence[Sequence[float]]) -> Timing:
    """Percentiles over all calls of all rounds.

    Args:
        rounds_us: per round what single calls took.
    """
    calls = np.concatenate([np.asarray(calls_us, dtype=np.float64) for calls_us in rounds_us])
    p20, median, p80 = np.percentile(calls, (20, 50, 80))
    return Timing(
        median_us=float(median),
        p20_us=float(p20),
        p80_us=float(p80),
        count=len(calls),
        round_medians_us=tuple(float(np.median(calls_us)) for calls_us in rounds_us),
    )


def _check(case: Case) -> Iterator[Result]:
    """Whether each contender computes what float64 does, on fresh inputs and poisoned memory."""
    problem = case.checked()
    exact = problem.compared(*problem.exact())
    results = {
        contender.name: _check_one(contender, problem, exact, case.tolerance) for contender in problem.contenders
    }
    bound = results.get(case.twice or "")
    for checked, errors in results.values():
        result = checked
        if bound and result.name == case.subjects[0] and result.status == "measured":
            allowed = [min(case.tolerance, 2 * error) for error in bound[1]]
            right = all(error <= most for error, most in zip(errors, allowed, strict=True))
            result = replace(result, status="measured" if right else "wrong", allowed=max(allowed))
        if result.status == "wrong":
            result = replace(result, reason=f"differs from float64: {_error_text(result)}")
        yield result


def _check_one(
    contender: Contender, problem: Problem, exact: Sequence[Tensor], tolerance: float
) -> tuple[Result, list[float]]:
    result = Result(name=contender.name, ours=contender.ours, status="measured")
    try:
        with _no_warnings(), _poisoned_memory() if contender.ours else nullcontext():
            outputs = contender.forward()
            computed = problem.compared(outputs, contender.gradients(outputs, problem.grads))
    except _FAILURES as error:
        return _Failure.of(error).mark(result), []
    errors = [_relative_error(one, truth) for one, truth in zip(computed, exact, strict=True)]
    worst = max(errors)
    return replace(
        result,
        status="measured" if worst <= tolerance else "wrong",
        error=worst if math.isfinite(worst) else None,
        allowed=tolerance,
    ), errors


def _error_text(result: Result) -> str:
    return f"{'not finite' if result.error is None else f'{result.error:.1e}'}, allowed {result.allowed:.1e}"


def _relative_error(computed: Tensor, exact: Tensor) -> float:
    """RMS(error) / RMS(exact); infinite where something is not finite."""
    error = (computed.detach().double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return error.item() if error.isfinite() else math.inf


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """New memory is NaN, so that an element left unwritten shows. Not for vendors: it may change what they run."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Vendor backends explain at length why they cannot, and the poison warns of what has no deterministic form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class _Failure:
    """Why a contender did not run. The error itself is not stored, because its traceback would keep tensors alive."""

    reason: str
    refused: bool

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        lines = str(error).strip().splitlines() or ["no message"]
        return cls(reason=f"{type(error).__name__}: {lines[0]}", refused=isinstance(error, KdcmaeError))

    def mark(self, result: Result) -> Result:
        """The result, failed if our own code broke down; absent if it refused, or if a vendor lacks the case."""
        defect = result.ours and not self.refused
        return replace(result, status="failed" if defect else "absent", reason=self.reason)


@dataclass
class _Turns:
    """The contenders of one direction taking turns under every condition."""

    case: Case
    clock: Clock
    problem: Problem
    direction: Direction
    windows: dict[tuple[str, str], Window] = field(default_factory=dict)
    rounds_us: dict[tuple[str, str], list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, _Failure] = field(default_factory=dict)

    def enter(self, contender: Contender) -> None:
        """Set up a contender under every condition it can run under."""
        try:
            call = contender.call(self.direction, self.problem.grads)
        except _FAILURES as error:
            self.failures[contender.name] = _Failure.of(error)
            return
        for condition in self.clock.conditions:
            if condition in self.case.conditions:
                try:
                    with _no_warnings():
                        window = self.clock.prepare(call, condition)
                except _FAILURES as error:
                    self.failures[contender.name] = _Failure.of(error)
                else:
                    self.windows[contender.name, str(condition)] = window

    def take(self, seconds: float, rounds: int) -> None:
        """Run the windows back and forth, so that over two rounds nobody always runs after the same other.

        Where single calls are so slow that this takes twice as long as it should, there are fewer rounds.
        """
        window_s = seconds / (rounds * max(1, len(self.windows)))
        end = time.monotonic() + 2 * seconds
        for turn in range(rounds):
            if turn >= _FEWEST_ROUNDS and time.monotonic() > end:
                break
            entries = list(self.windows.items())
            for key, window in entries if turn % 2 == 0 else reversed(entries):
                try:
                    self.rounds_us[key].append(window(window_s))
                except _FAILURES as error:
                    self.failures[key[0]] = _Failure.of(error)
                    del self.windows[key], self.rounds_us[key]
        self.windows.clear()  # frees the graphs and what they hold

    def add_to(self, result: Result) -> Result:
        """The contender's result with what was timed here, or why not."""
        timings = {
            condition: summarize(rounds_us)
            for (name, condition), rounds_us in self.rounds_us.items()
            if name == result.name
        }
        failure = self.failures.get(result.name)
        if failure and not timings:
            return failure.mark(result)
        reason = f"{self.direction}: {failure.reason}" if failure else result.reason
        return replace(result, reason=reason, timings={**result.timings, self.direction: timings})


def _compare(case: Case, results: dict[str, Result], seed: int) -> Iterator[Comparison]:
    subject = next((results[name] for name in case.subjects if results[name].status == "measured"), None)
    if subject is None:
        return
    for direction, baseline in itertools.product(case.directions, case.baselines):
        comparison = _compare_one(direction, subject, baseline, results, seed)
        if comparison:
            yield comparison


def _compare_one(
    direction: Direction, subject: Result, baseline: Baseline, results: dict[str, Result], seed: int
) -> Comparison | None:
    """Comparison with the fastest contender of the baseline, under the first condition in which all were timed."""
    names = [name for name in baseline.among if name != subject.name and results[name].status == "measured"]
    timings = [results[name].timings[direction] for name in (subject.name, *names)]
    condition = next((name for name in map(str, _COMPARED_UNDER) if all(name in timing for timing in timings)), None)
    if not names or condition is None:
        return None
    own, *rivals = (timing[condition] for timing in timings)
    fastest = min(range(len(rivals)), key=lambda index: rivals[index].median_us)
    return Comparison(
        direction=direction,
        condition=condition,
        subject=subject.name,
        baseline=names[fastest],
        against=baseline.name,
        speed=speed_ratio(rivals[fastest].round_medians_us, own.round_medians_us, seed=seed),
        target=baseline.targets.get(direction),
    )


def _failures() -> tuple[type[Exception], ...]:
    """Errors of a contender that do not end the run: refusals, memory, CUDA errors, kernels that do not build."""
    if importlib.util.find_spec("triton") is None:
        return RuntimeError, KdcmaeError
    from triton.errors import TritonError

    return RuntimeError, KdcmaeError, TritonError


_FAILURES = _failures()
