"""A run from start to report: the device's ceilings, then case by case within the time allowed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from kdcmae import host
from kdcmae.bench.kernels.attention import attention_cases
from kdcmae.bench.kernels.case import Case, Profile
from kdcmae.bench.kernels.measure import measure_case
from kdcmae.bench.kernels.patch_embed import patch_embed_cases
from kdcmae.bench.kernels.profiles import profile_for
from kdcmae.bench.kernels.schema import Report, Settings
from kdcmae.bench.kernels.step import step_cases
from kdcmae.bench.machine.ceilings import device_ceilings
from kdcmae.bench.machine.clock import clock_for
from kdcmae.bench.report.envelope import stamp
from kdcmae.errors import DeviceError
from kdcmae.progress import Step

__all__ = ["Budget", "default_device", "describe_device", "run_kernel_benchmark"]


def run_kernel_benchmark(settings: Settings, *, step: Step, store: Callable[[Report], None]) -> Report:
    """Check and time every case.

    Args:
        settings: how to run.
        step: shows progress; a context manager per named step.
        store: called with the report so far after every case, so that a run that is cut short leaves something.

    Raises:
        DeviceError: this machine lacks the device.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device here; add --device cpu for what a CPU can show, or --quick for a dry run")
    envelope = stamp("kernels")
    profile, budget = profile_for(settings), Budget(60 * settings.minutes)
    clock = clock_for(profile.device)
    with step("measure ceilings"):
        sizes = {"copy_bytes": profile.copy_bytes, "matmul_side": profile.matmul_side}
        ceilings = device_ceilings(clock, profile.device, profile.dtype, **sizes, seconds=budget.share(1, 300))
    report = Report(**envelope, device=describe_device(profile.device), settings=settings, ceilings=ceilings)
    cases = _cases(profile, settings)
    for index, case in enumerate(cases):
        with step(case.name):
            seconds = budget.share(case.weight, sum(left.weight for left in cases[index:]))
            result = measure_case(case, clock, seconds=seconds, rounds=settings.rounds, seed=settings.seed)
        report = replace(report, cases=(*report.cases, result))
        store(report)
        gc.collect()  # compiled modules lie in cycles, and the next case needs their memory
    return report


class Budget:
    """The time a run may take."""

    TIMED = 0.6  # of a case's share; the rest is for building, compiling and checking it

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def share(self, weight: float, remaining: float) -> float:
        """Timed seconds for what has ``weight`` among the ``remaining``, itself included; at least 0."""
        return max(0.0, self.TIMED * (self._end - self._clock()) * weight / remaining)


def default_device(*, quick: bool) -> Literal["cuda", "cpu"]:
    """The GPU; the CPU for a dry run without one."""
    return "cpu" if quick and not torch.cuda.is_available() else "cuda"


def describe_device(device: torch.device) -> dict[str, Any]:
    """Facts about the device, for the report."""
    if device.type != "cuda":
        return {"type": device.type, "name": host.cpu_name(), "threads": torch.get_num_threads()}
    facts = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "multiprocessors": facts.multi_processor_count,
        "memory_bytes": facts.total_memory,
        "l2_cache_bytes": facts.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _cases(profile: Profile, settings: Settings) -> Sequence[Case]:
    cases = [
        *attention_cases(profile),
        *patch_embed_cases(profile),
        *step_cases(profile, compiled=settings.compiled),
    ]
    return [case for case in cases if case.kind in settings.kinds]
