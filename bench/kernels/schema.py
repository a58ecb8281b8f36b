"""The kernel benchmark's results as data: one JSON object per run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdcmae.bench.report import envelope
from kdcmae.bench.report.envelope import Envelope
from kdcmae.bench.report.records import DeviceCeilings
from kdcmae.bench.run.timing import SpeedRatio

__all__ = [
    "CaseResult",
    "Comparison",
    "Direction",
    "Kind",
    "Report",
    "Result",
    "Settings",
    "Status",
    "Timing",
    "Work",
]

Direction = Literal["forward", "backward", "both"]
Kind = Literal["attention", "patch-embedding", "step"]
Status = Literal["measured", "absent", "wrong", "failed"]
"""``absent``: it is not for this machine; ``wrong``: its results are; ``failed``: it ended in an error."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a benchmark runs.

    Args:
        device: ``cuda`` or ``cpu``.
        kinds: which cases to run.
        quick: tiny sizes, to see that everything runs; its timings mean nothing.
        compiled: the pretraining step runs through ``torch.compile``, on every path alike.
        minutes: what the run should take in all; slow calls can make it longer.
        rounds: turns of every contender, at most.
        seed: of the inputs, the weights and the bootstrap.
    """

    device: Literal["cuda", "cpu"]
    kinds: tuple[Kind, ...]
    quick: bool = False
    compiled: bool = False
    minutes: float = 6.0
    rounds: int = 10
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """The least there is to do: every input read once, every output written once, and the matrix products."""

    bytes: int
    flop: int

    def __add__(self, other: Work) -> Work:
        return Work(bytes=self.bytes + other.bytes, flop=self.flop + other.flop)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Percentiles of single calls over all rounds, and the median of each round in the order they ran."""

    median_us: float
    p20_us: float
    p80_us: float
    count: int
    round_medians_us: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One contender in one case.

    Args:
        name: of the contender.
        ours: it is this project's code, so it must neither fail nor be wrong.
        status: whether it ran, and was right.
        reason: why it was not measured.
        error: the largest RMS(error) / RMS(float64 reference) over outputs and gradients; None where not known
            or not finite.
        allowed: the error that still passes, where one was looked at.
        timings: by direction, then by condition.
    """

    name: str
    ours: bool
    status: Status
    reason: str = ""
    error: float | None = None
    allowed: float | None = None
    timings: Mapping[Direction, Mapping[str, Timing]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The subject's speed against a baseline.

    Args:
        direction, condition: what was compared.
        subject: name of the contender the case is about.
        baseline: name of the fastest contender of the baseline.
        against: what the baseline is called.
        speed: how many times as fast the subject is, from pairs of rounds.
        target: the speed that was aimed at; None for none.
    """

    direction: Direction
    condition: str
    subject: str
    baseline: str
    against: str
    speed: SpeedRatio
    target: float | None

    @property
    def is_met(self) -> bool:
        """Whether the speed reaches the target, where there is one."""
        return self.target is not None and self.speed.ratio >= self.target


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case.

    Args:
        name, kind: of the case.
        samples: sequences or clips per call.
        dtype: of the matrix products.
        routed_to: what the kernels' table sends this case to, ``kernel`` or ``vendor``; None where there is no table.
        work: by direction; empty where it is not counted.
        results: of every contender.
        comparisons: of the subject with every baseline.
    """

    name: str
    kind: Kind
    samples: int
    dtype: str
    routed_to: str | None
    work: Mapping[Direction, Work]
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]

    def result(self, name: str) -> Result:
        """The contender called ``name``."""
        return next(result for result in self.results if result.name == name)


@dataclass(frozen=True, kw_only=True)
class Report(Envelope):
    """A whole run, or as much of it as is done.

    Args:
        device: name and facts of the device.
        settings: how it ran.
        ceilings: of the device.
        cases: in the order they ran.
    """

    kind: envelope.Kind = "kernels"
    device: dict[str, Any]
    settings: Settings
    ceilings: DeviceCeilings
    cases: tuple[CaseResult, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where code of ours failed or is wrong, else 0."""
        results = (result for case in self.cases for result in case.results if result.ours)
        return int(any(result.status in ("wrong", "failed") for result in results))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return dataclasses.asdict(self)
