"""The parity ladder: each stage of a build against the reference model, on the same inputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "Arrays", "Ladder", "Rung", "relative_error", "tolerance"]

Arrays = Mapping[str, NDArray[Any]]

# Largest error relative to the largest reference value. float32 differs by summation order only; fp16 keeps 11
# significant bits and bf16 8, and errors of that size add up over some twenty blocks.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2}


def tolerance(precisions: set[str]) -> float:
    """The tolerance of a stage that computes in these precisions: the widest of theirs."""
    return max(TOLERANCE[precision] for precision in precisions)


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute reference value; infinite where shapes or NaNs differ."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / scale


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One stage compared with the reference.

    Args:
        name: ``lowered``, ``onnx``, ``engine`` or ``artifact``.
        status: passed, failed, or skipped where this machine cannot run the stage.
        errors: per output, as :func:`relative_error` gives it; empty where skipped.
        tolerance: what the errors had to stay within.
        seconds: what running the stage took.
        note: why it was skipped, or how it ran.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    errors: Mapping[str, float]
    tolerance: float
    seconds: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest."""
        return dataclasses.asdict(self)


class Ladder:
    """Climbs from the reference to the artifact and remembers every rung.

    Args:
        reference: the reference model's outputs by name.
    """

    def __init__(self, reference: Arrays) -> None:
        self.reference = reference
        self.rungs: list[Rung] = []

    def climb(
        self, name: str, run: Callable[[], Arrays], *, tolerance: float, note: str = "", samples: int | None = None
    ) -> Rung:
        """Run one stage and compare its outputs.

        Args:
            name: of the rung.
            run: gives the stage's outputs by name.
            tolerance: of :func:`relative_error`, for every output.
            note: how it ran.
            samples: the stage ran only this many of the reference's first samples; None for all of them.
        """
        start = time.perf_counter()
        outputs = run()
        seconds = time.perf_counter() - start
        missing = np.empty(0)
        errors = {
            key: relative_error(np.asarray(outputs.get(key, missing)), expected[:samples])
            for key, expected in self.reference.items()
        }
        passed = all(error <= tolerance for error in errors.values())
        rung = Rung(
            name=name,
            status="passed" if passed else "failed",
            errors=errors,
            tolerance=tolerance,
            seconds=seconds,
            note=note,
        )
        self.rungs.append(rung)
        return rung

    def skip(self, name: str, reason: str) -> None:
        """Remember that this machine cannot run a stage, and why."""
        self.rungs.append(Rung(name=name, status="skipped", errors={}, tolerance=0.0, seconds=0.0, note=reason))

    @property
    def first_failure(self) -> Rung | None:
        """The lowest rung out of tolerance."""
        return next((rung for rung in self.rungs if rung.status == "failed"), None)
