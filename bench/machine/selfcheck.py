"""Is the clock right and the machine quiet? Asked before anything is timed: a known sleep and a known matrix product.

The product runs on one CPU after the other, in a process pinned to it. Time on the clock beyond the process's own CPU
time is time that other processes took; a product of twice the work has to take twice as long.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from kdcmae.bench.machine.state import run_pinned
from kdcmae.bench.report.records import SelfCheck
from kdcmae.errors import DeviceError, EngineError, GateError

__all__ = ["check_machine", "judge", "require_sound", "timed_sleep"]

_SLEEP_S = 0.05
_LATE_S = 0.01  # a quiet system wakes a sleeper within this
_CLOCKS_APART = 0.01
_STOLEN = 0.05  # share of the time that other processes may take
_TWICE = (1.8, 2.25)
_MOST_CPUS = 8
_PROBE_TIMEOUT_S = 60


def check_machine(cpus: Sequence[int], *, overridden: bool) -> SelfCheck:
    """Time a sleep and, on each CPU, matrix products.

    Args:
        cpus: that the benchmark will use; the first few are checked.
        overridden: the run goes on in spite of problems.
    """
    clock = timed_sleep()
    probed = {cpu: _probe(cpu) for cpu in cpus[:_MOST_CPUS]}
    products = {f"cpu {cpu}: {name}": value for cpu, figures in probed.items() for name, value in figures.items()}
    return SelfCheck(problems=judge(clock, probed), figures={**clock, **products}, overridden=overridden)


def require_sound(check: SelfCheck) -> None:
    """Raise if the check has problems.

    Raises:
        GateError: it has, and they are not overridden.
    """
    if check.problems and not check.overridden:
        raise GateError(
            f"nothing was timed, because {'; '.join(check.problems)}. Close other programs and try again, "
            "or give --self-check mark, which marks the report"
        )


def judge(clock: Mapping[str, float], cpus: Mapping[int, Mapping[str, float]]) -> tuple[str, ...]:
    """Problems that the figures of a check show, in words; empty if there are none.

    Args:
        clock: what :func:`timed_sleep` measured.
        cpus: figures of the products, by CPU.
    """
    problems = []
    late_s = clock["sleep_s"] - _SLEEP_S
    if not 0 <= late_s <= _LATE_S:
        problems.append(f"a sleep of {_SLEEP_S * 1e3:g} ms took {clock['sleep_s'] * 1e3:.1f} ms")
    if abs(clock["clock_ratio"] - 1) > _CLOCKS_APART:
        problems.append(f"two clocks disagree by {abs(clock['clock_ratio'] - 1):.1%}")
    for cpu, figures in cpus.items():
        stolen, twice = figures["stolen"], figures["twice the work"]
        if stolen > _STOLEN:
            problems.append(f"on cpu {cpu} other work took {stolen:.0%} of the time")
        if not _TWICE[0] <= twice <= _TWICE[1]:
            problems.append(f"on cpu {cpu} twice the work took {twice:.2f} times as long")
    return tuple(problems)


def timed_sleep(clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """The shortest of several sleeps on the clock that everything is timed with, and that clock against another."""
    sleeps = []
    begin, other = clock(), time.time()
    for _ in range(5):
        start = clock()
        time.sleep(_SLEEP_S)
        sleeps.append(clock() - start)
    return {"sleep_s": min(sleeps), "clock_ratio": (clock() - begin) / (time.time() - other)}


def _probe(cpu: int) -> dict[str, float]:
    """Figures of one CPU, from a process of its own.

    Raises:
        GateError: the process failed.
    """
    try:
        printed = run_pinned("kdcmae.bench.machine.selfcheck", cpus=(cpu,), timeout_s=_PROBE_TIMEOUT_S)
    except (DeviceError, EngineError) as error:
        raise GateError(f"the self-check failed on CPU {cpu}: {error}") from error
    figures: dict[str, float] = json.loads(printed)
    return figures


def _products() -> dict[str, float]:
    """Time products of one size and of twice the work in turns; runs in the pinned process."""
    import numpy as np

    side = 384
    left = np.random.default_rng(0).standard_normal((2 * side, side), dtype=np.float32)
    right = np.ascontiguousarray(left[:side])
    once, twice = left[:side], left
    for _ in range(20):
        twice @ right
    single_s: list[float] = []
    double_s: list[float] = []
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < 0.4:
        for product, times in ((once, single_s), (twice, double_s)):
            start = time.perf_counter()
            product @ right
            times.append(time.perf_counter() - start)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # The shortest: the first figure already shows what other processes take.
    return {
        "stolen": max(0.0, 1 - cpu / wall),
        "twice the work": min(double_s) / min(single_s),
        "gflop_per_s": 2e-9 * side**3 / min(single_s),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_products()))
