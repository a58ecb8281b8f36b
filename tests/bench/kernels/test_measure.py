"""A case from problem to result: what is caught before timing, who takes turns, what is compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcmae.bench.kernels.case import Baseline, Case, Contender, Problem
from kdcmae.bench.kernels.measure import measure_case, summarize
from kdcmae.bench.machine.clock import GRAPH_COLD, PLAIN_WARM, Condition, CpuClock, Window
from kdcmae.errors import ConfigError


@dataclass
class FakeClock:
    """Runs a call when it is prepared, and says its windows took as long as it is told.

    Args:
        times_us: of each prepared window; the last for all that follow.
        broken: conditions that cannot be set up.
    """

    times_us: tuple[float, ...] = (1.0,)
    broken: tuple[Condition, ...] = ()
    conditions: tuple[Condition, ...] = (PLAIN_WARM, GRAPH_COLD)
    turns: list[int] = field(default_factory=list)
    prepared: int = 0

    def running(self) -> nullcontext[None]:
        return nullcontext()

    def prepare(self, call: Callable[[], object], condition: Condition) -> Window:
        if condition in self.broken:
            raise RuntimeError(f"cannot set up {condition}\nat great length")
        call()
        number, self.prepared = self.prepared, self.prepared + 1
        time_us = self.times_us[min(number, len(self.times_us) - 1)]

        def window(seconds: float) -> list[float]:
            self.turns.append(number)
            return [time_us] * 3

        return window


def square(x: Tensor) -> Tensor:
    """What every contender should compute."""
    return x * x


def case_of(solvers: Mapping[str, Callable[[Tensor], Tensor]], **changes: Any) -> Case:
    """Contenders that square 64 numbers; those whose name starts with "vendor" are not ours."""

    def problem() -> Problem:
        x = torch.linspace(-1, 1, 64).requires_grad_()

        def contender(name: str, solve: Callable[[Tensor], Tensor]) -> Contender:
            return Contender(name=name, forward=lambda: (solve(x),), leaves=(x,), ours=not name.startswith("vendor"))

        wide = x.detach().double()
        return Problem(
            contenders=tuple(contender(name, solve) for name, solve in solvers.items()),
            grads=(torch.ones(64),),
            exact=lambda: ((wide * wide,), (2 * wide,)),
        )

    vendors = tuple(name for name in solvers if name.startswith("vendor"))
    defaults: dict[str, Any] = {
        "name": "squares",
        "kind": "attention",
        "samples": 64,
        "dtype": torch.float32,
        "directions": ("forward",),
        "conditions": (PLAIN_WARM, GRAPH_COLD),
        "timed": problem,
        "checked": problem,
        "tolerance": 1e-5,
        "twice": None,
        "subjects": ("kernel",),
        "baselines": (Baseline(name="best vendor", among=vendors, targets={"forward": 1.5}),),
        "absent": {},
    }
    return Case(**{**defaults, **changes})


def measure(case: Case, clock: FakeClock | None = None, rounds: int = 2):
    return measure_case(case, clock or FakeClock(), seconds=0, rounds=rounds, seed=0)


def refuse(x: Tensor) -> Tensor:
    raise ConfigError("no kernel for this")


def break_down(x: Tensor) -> Tensor:
    raise RuntimeError("illegal memory access\nand a page of advice")


def test_right_contenders_are_timed_in_every_direction_and_condition():
    case = case_of({"kernel": square, "vendor": torch.square}, directions=("forward", "backward", "both"))
    for result in measure(case).results:
        assert (result.status, result.reason, result.allowed) == ("measured", "", 1e-5)
        assert result.error < 1e-7
        assert {name: set(timings) for name, timings in result.timings.items()} == {
            name: {"plain, warm", "graph, cold"} for name in case.directions
        }


def test_backward_can_run_again_and_again():
    case = case_of({"kernel": square}, directions=("backward",), conditions=(PLAIN_WARM,))
    (result,) = measure_case(case, CpuClock(), seconds=0.001, rounds=3, seed=0).results
    assert result.timings["backward"]["plain, warm"].count >= 3


@pytest.mark.parametrize(
    ("solve", "reason"),
    [
        (lambda x: x * x + 0.01, "differs from float64: "),
        (lambda x: x * x.detach(), "differs from float64: "),  # the output is right, its gradient is not
        (lambda x: x * x + torch.empty_like(x), "differs from float64: not finite"),
    ],
    ids=["output", "gradient", "unwritten memory"],
)
def test_what_is_wrong_is_not_timed(solve, reason):
    wrong, vendor = measure(case_of({"kernel": solve, "vendor": square})).results
    assert wrong.status == "wrong"
    assert wrong.reason.startswith(reason)
    assert not wrong.timings
    assert vendor.status == "measured"


def test_poison_is_gone_after_the_check():
    measure(case_of({"kernel": square}))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("name", "solve", "status", "reason"),
    [
        ("kernel", break_down, "failed", "RuntimeError: illegal memory access"),
        ("kernel", refuse, "absent", "ConfigError: no kernel for this"),
        ("vendor", break_down, "absent", "RuntimeError: illegal memory access"),
    ],
)
def test_what_breaks_down_says_so_and_the_others_go_on(name, solve, status, reason):
    broken, other = measure(case_of({name: solve, "reference": square}, subjects=(name,))).results
    assert (broken.status, broken.reason, broken.timings) == (status, reason, {})
    assert other.status == "measured"


def test_breaking_down_after_the_check_counts_too():
    calls = []

    def once(x: Tensor) -> Tensor:
        calls.append(x)
        return square(x) if len(calls) == 1 else break_down(x)

    (result,) = measure(case_of({"kernel": once})).results
    assert (result.status, result.reason) == ("failed", "RuntimeError: illegal memory access")


def test_breaking_down_between_rounds_drops_what_was_timed():
    class BreakingClock(FakeClock):
        def prepare(self, call, condition):
            number, window = self.prepared, super().prepare(call, condition)

            def breaking(seconds: float) -> list[float]:
                if number == 0 and len(self.turns) > 2:
                    raise torch.OutOfMemoryError("out of memory")
                return window(seconds)

            return breaking

    clock = BreakingClock(conditions=(PLAIN_WARM,))
    kernel, vendor = measure(case_of({"kernel": square, "vendor": square}), clock, rounds=4).results
    assert (kernel.status, kernel.reason, kernel.timings) == ("failed", "OutOfMemoryError: out of memory", {})
    assert vendor.status == "measured"
    assert len(vendor.timings["forward"]["plain, warm"].round_medians_us) == 4


def test_a_condition_that_cannot_be_set_up_leaves_the_others():
    case = case_of({"kernel": square, "vendor": square})
    result = measure(case, FakeClock(broken=(GRAPH_COLD,)))
    for one in result.results:
        assert one.status == "measured"
        assert one.reason == "forward: RuntimeError: cannot set up graph, cold"
        assert set(one.timings["forward"]) == {"plain, warm"}
    assert [comparison.condition for comparison in result.comparisons] == ["plain, warm"]


def test_without_any_condition_there_is_nothing_to_report():
    (result,) = measure(case_of({"kernel": square}), FakeClock(broken=(PLAIN_WARM, GRAPH_COLD))).results
    assert (result.status, result.timings) == ("failed", {})


@pytest.mark.parametrize(("offset", "status"), [(1e-4, "measured"), (3e-4, "wrong")])
def test_the_subject_may_err_twice_as_much_as_the_reference(offset, status):
    solvers = {"kernel": lambda x: square(x) + offset, "reference": lambda x: square(x) + 1e-4, "vendor": square}
    subject, reference, _ = measure(case_of(solvers, tolerance=1e-2, twice="reference")).results
    assert subject.status == status
    assert subject.allowed == pytest.approx(2 * reference.error)
    assert reference.allowed == 1e-2


def test_contenders_take_turns_back_and_forth():
    clock = FakeClock(conditions=(PLAIN_WARM,))
    measure(case_of({"kernel": square, "vendor": square, "vendor b": square}), clock, rounds=3)
    assert clock.turns == [0, 1, 2, 2, 1, 0, 0, 1, 2]


def test_slow_calls_get_fewer_rounds():
    clock = FakeClock(conditions=(PLAIN_WARM,))
    (result,) = measure(case_of({"kernel": square}), clock, rounds=20).results  # in no time at all
    assert len(result.timings["forward"]["plain, warm"].round_medians_us) == 4


def test_the_fastest_of_the_baseline_counts_under_the_condition_nearest_to_training():
    # Prepared in order: every contender's plain window, then its graph's.
    clock = FakeClock(times_us=(1, 10, 2, 40, 3, 20))
    (comparison,) = measure(case_of({"kernel": square, "vendor a": square, "vendor b": square}), clock).comparisons
    assert (comparison.subject, comparison.baseline, comparison.against) == ("kernel", "vendor b", "best vendor")
    assert comparison.condition == "graph, cold"
    assert comparison.speed.ratio == pytest.approx(2)
    assert comparison.target == 1.5


def test_the_first_measured_subject_is_compared_and_never_with_itself():
    case = case_of(
        {"reference": square, "vendor": square},
        subjects=("kernel", "reference"),
        absent={"kernel": "needs a CUDA device"},
        baselines=(Baseline(name="reference", among=("reference",)), Baseline(name="vendor", among=("vendor",))),
    )
    result = measure(case)
    assert result.result("kernel").reason == "needs a CUDA device"
    assert [(comparison.subject, comparison.baseline) for comparison in result.comparisons] == [("reference", "vendor")]


def test_without_a_subject_nothing_is_compared():
    assert measure(case_of({"kernel": break_down, "vendor": square})).comparisons == ()


def test_warnings_of_contenders_are_not_ours():
    def noisy(x: Tensor) -> Tensor:
        warnings.warn("memory efficient kernel not used because", stacklevel=2)
        return square(x)

    (result,) = measure(case_of({"vendor": noisy}, subjects=("vendor",))).results
    assert result.status == "measured"


def test_percentiles_are_over_all_calls_and_medians_per_round():
    timing = summarize([[1.0, 2.0, 3.0], [4.0, 5.0, 60.0]])
    assert (timing.median_us, timing.p20_us, timing.p80_us, timing.count) == (3.5, 2.0, 5.0, 6)
    assert timing.round_medians_us == (2.0, 5.0)
