"""The parity ladder: each stage of a build against the reference model, on the same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.settings import GATES, Gate

__all__ = ["TOLERANCE", "Arrays", "Case", "Comparison", "Ladder", "Rung", "agreement", "cosine", "relative_error"]

Arrays = Mapping[str, NDArray[Any]]

# Largest error relative to the largest reference value, of the precisions that promise one.
TOLERANCE: Mapping[str, float] = {name: gate.max_error for name, gate in GATES.items() if gate.max_error is not None}

# How much further from the reference an engine with integer products may be than its graph executed in float32: the
# kernels round sums that lie between two steps in another way. Measured on the shipped model and on a wider one, with
# OpenVINO and ONNX Runtime: 0.9 to 1.2 times as far where nothing saturates, 2.6 to 7 times where sums do. What is not
# quantised may add its own precision's error, and in a model with small errors chance needs the floor.
_FALL = 2.0
_FALL_FLOOR = 0.01


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute reference value; infinite where shapes or NaNs differ."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / scale


def cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Smallest cosine between a sample and its reference; -1 where shapes or NaNs differ."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return -1.0
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (actual, expected))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)  # two zero vectors too
    return float(np.where(same, 1.0, (a * b).sum(axis=1) / np.where(lengths, lengths, 1.0)).min())


def agreement(actual: NDArray[Any], expected: NDArray[Any], tie: float) -> float:
    """Share of samples whose first class is the reference's.

    Args:
        actual, expected: (B, classes).
        tie: classes of the reference this close, relative to its largest absolute value, count as the same.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return 0.0
    chosen = np.take_along_axis(expected, actual.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((expected.max(axis=1) - chosen <= tie * np.abs(expected).max()).mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Inputs and what the reference model makes of them.

    Args:
        name: such as ``batch 8`` or ``made clips 1-4``.
        inputs, reference: by name, one batch.
    """

    name: str
    inputs: Arrays
    reference: Arrays

    @property
    def batch(self) -> int:
        """Samples."""
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The outputs of one stage for one case.

    Args:
        case: its name.
        batch: samples.
        errors, cosines: per output.
        agreement: of the first class; None for a model that does not classify.
    """

    case: str
    batch: int
    errors: Mapping[str, float]
    cosines: Mapping[str, float]
    agreement: float | None


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One stage compared with the reference.

    Args:
        name: ``trained``, ``program``, ``onnx``, ``engine`` or ``artifact``.
        status: passed, failed, or skipped where this machine cannot run the stage.
        comparisons: one per case; empty where skipped.
        gate: what they had to stay within; None where skipped.
        seconds: what running the stage took.
        note: why it was skipped, or how it ran.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    comparisons: tuple[Comparison, ...]
    gate: Gate | None
    seconds: float
    note: str = ""

    @property
    def errors(self) -> dict[str, float]:
        """The largest error per output."""
        return _worst(max, [one.errors for one in self.comparisons])

    @property
    def cosines(self) -> dict[str, float]:
        """The smallest cosine per output."""
        return _worst(min, [one.cosines for one in self.comparisons])

    @property
    def agreement(self) -> float | None:
        """The share of all samples whose first class is the reference's; None for a model that does not classify."""
        counted = [(one.agreement * one.batch, one.batch) for one in self.comparisons if one.agreement is not None]
        return sum(agreed for agreed, _ in counted) / sum(batch for _, batch in counted) if counted else None

    def problem(self) -> str:
        """What is out of the gate, in words; empty where nothing is."""
        gate = self.gate
        if gate is None:
            return ""
        for name, error in self.errors.items():
            if gate.max_error is not None and not error <= gate.max_error:
                return f"{name} differs by {error:.1e} of its largest value, allowed {gate.max_error:.0e}"
        for name, smallest in self.cosines.items():
            if not smallest >= gate.min_cosine:
                return f"the cosine of {name} is {smallest:.6f}, at least {gate.min_cosine} is needed"
        if self.agreement is not None and self.agreement < gate.min_agreement:
            return f"top-1 agreement is {self.agreement:.1%}, at least {gate.min_agreement:.1%} is needed"
        return ""

    def fall(self, before: Rung, *, floating: str) -> str:
        """What is much further from the reference here than in the rung before, in words; empty where nothing is.

        Args:
            before: the same computation, executed in float32.
            floating: the precision of what is not quantised here.
        """
        allowance = max(_FALL_FLOOR, TOLERANCE[floating])
        for name, error in self.errors.items():
            if not error <= _FALL * before.errors[name] + allowance:
                times = f", {error / before.errors[name]:.1f} times as far" if before.errors[name] else ""
                return (
                    f"{name} differs by {error:.3f} of its largest value, in rung {before.name!r} by "
                    f"{before.errors[name]:.3f}{times}; {_FALL:g} times that and {allowance:g} are allowed"
                )
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest: the worst over all cases, then case by case."""
        return {
            "name": self.name,
            "status": self.status,
            "errors": {name: _finite(error) for name, error in self.errors.items()},
            "cosines": self.cosines,
            "agreement": self.agreement,
            "tolerance": None if self.gate is None else self.gate.max_error,
            "gate": None if self.gate is None else asdict(self.gate),
            "seconds": self.seconds,
            "note": self.note,
            "cases": [asdict(one) for one in self.comparisons],
        }


class Ladder:
    """Climbs from the reference to the artifact and remembers every rung.

    Args:
        cases: what every rung is run on.
        logits: the output that holds the logits of a classifier; empty for other models.
    """

    def __init__(self, cases: Sequence[Case], *, logits: str = "") -> None:
        self.cases = tuple(cases)
        self.logits = logits
        self.rungs: list[Rung] = []

    def climb(
        self,
        name: str,
        run: Callable[[Arrays], Arrays],
        *,
        gate: Gate,
        note: str = "",
        cases: Sequence[Case] | None = None,
    ) -> Rung:
        """Run one stage and compare its outputs.

        Args:
            name: of the rung.
            run: from inputs to outputs, by name.
            gate: what every output has to stay within.
            note: how it ran.
            cases: other cases than all of them.
        """
        start = time.perf_counter()
        compared = tuple(
            self._compare(case, run(case.inputs), gate) for case in (self.cases if cases is None else cases)
        )
        seconds = time.perf_counter() - start
        rung = Rung(name=name, status="passed", comparisons=compared, gate=gate, seconds=seconds, note=note)
        if rung.problem():
            rung = Rung(name=name, status="failed", comparisons=compared, gate=gate, seconds=seconds, note=note)
        self.rungs.append(rung)
        return rung

    def skip(self, name: str, reason: str) -> None:
        """Remember that this machine cannot run a stage, and why."""
        self.rungs.append(Rung(name=name, status="skipped", comparisons=(), gate=None, seconds=0.0, note=reason))

    def _compare(self, case: Case, outputs: Arrays, gate: Gate) -> Comparison:
        missing = np.empty(0)
        found = {name: np.asarray(outputs.get(name, missing)) for name in case.reference}
        agreed = agreement(found[self.logits], case.reference[self.logits], gate.tie) if self.logits else None
        return Comparison(
            case=case.name,
            batch=case.batch,
            errors={name: relative_error(found[name], expected) for name, expected in case.reference.items()},
            cosines={name: cosine(found[name], expected) for name, expected in case.reference.items()},
            agreement=agreed,
        )


def _worst(choose: Callable[..., float], values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: choose(one[name] for one in values) for name in (values[0] if values else ())}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
