"""The parity ladder: each stage of a build against the reference model, on the same inputs.

What is compared, and how, is said in :mod:`kdcmae.runtime.metrics`; the limits are those of
:data:`kdcmae.runtime.precisions.GATES`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import gates
from kdcmae.compile.stages import ROUNDED, Run, Stage
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.metrics import Kind, OutputComparison, compare, pooled
from kdcmae.runtime.precisions import GATES, QUANTIZED, Gate

__all__ = ["TOLERANCE", "Case", "Comparison", "Ladder", "Rung", "cosine", "finite", "relative_error"]

# Largest error relative to the largest reference value, of the precisions that promise one.
TOLERANCE: Mapping[str, float] = {name: gate.max_error for name, gate in GATES.items() if gate.max_error is not None}

# How much further from the reference a stage may be than the one before it. Measured of engines with integer products
# beside their graphs executed in float32, on the shipped model and on a wider one, with OpenVINO and ONNX Runtime: 0.9
# to 1.2 times as far where nothing saturates, 2.6 to 7 times where sums do.
_FALL = 2.0


def relative_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute reference value; infinite where shapes or NaNs differ.

    Of values inside a network. Outputs are compared by :func:`kdcmae.runtime.metrics.compare`.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()) / scale


def cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Smallest cosine between a sample and its reference; -1 where shapes or NaNs differ.

    Of values inside a network. Outputs are compared by :func:`kdcmae.runtime.metrics.compare`.
    """
    return compare(actual, expected, kind="features", tie=0.0).cosine


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Inputs and what the reference model makes of them.

    Args:
        name: such as ``batch 8`` or ``made clips``.
        inputs: by name, one batch that an engine takes.
        reference: of all samples, by name.
        more: further batches.
        repeated: samples at the end that only fill the last batch up; they are not compared.
        clips: where they are clips of sound and picture, as an app would hand them over, whose they are.
    """

    name: str
    inputs: Arrays
    reference: Arrays
    more: Sequence[Arrays] = ()
    repeated: int = 0
    clips: Literal["", "made", "yours"] = ""

    @property
    def batch(self) -> int:
        """Samples of a batch."""
        return len(next(iter(self.inputs.values())))

    @property
    def samples(self) -> int:
        """Samples that are compared."""
        return self.batch * (1 + len(self.more)) - self.repeated

    def first(self, samples: int) -> Case:
        """The leading batches of this case that together have at most so many samples, but always one batch."""
        kept = max(1, samples // self.batch)
        if kept > len(self.more):
            return self
        reference = {name: array[: kept * self.batch] for name, array in self.reference.items()}
        return dataclasses.replace(self, reference=reference, more=self.more[: kept - 1], repeated=0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The outputs of one stage for one case.

    Args:
        case: its name.
        batch: samples of a batch.
        clips: as the case has it.
        outputs: by name.
        worst_batch: number of the batch with the largest error of a sample, from 0.
    """

    case: str
    batch: int
    clips: str = ""
    outputs: Mapping[str, OutputComparison]
    worst_batch: int = 0

    @property
    def errors(self) -> dict[str, float]:
        """The largest error per output that has values to compare."""
        return {name: output.error for name, output in self.outputs.items() if output.errors.size}

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        shares = [(output.agreement, output.strict) for output in self.outputs.values() if output.agreement is not None]
        agreement, strict = shares[0] if shares else (None, None)
        return {
            "case": self.case,
            "batch": self.batch,
            "samples": next(iter(self.outputs.values())).samples,
            "clips": self.clips,
            "errors": {name: finite(error) for name, error in self.errors.items()},
            "cosines": {name: output.cosine for name, output in self.outputs.items() if output.cosines.size},
            "agreement": agreement,
            "strict": strict,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One stage compared with the reference.

    Args:
        name: ``trained``, ``program``, ``onnx``, ``quantized``, ``engine`` or ``artifact``.
        status: passed, failed, or skipped where this machine cannot run the stage.
        comparisons: one per case; empty where skipped.
        gate: what they had to stay within; None where skipped.
        seconds: what running the stage took.
        note: why it was skipped, or how it ran.
        fall: how much further from the reference it is than the rung before, in words; empty where that is allowed.
    """

    name: str
    status: Literal["passed", "failed", "skipped"]
    comparisons: tuple[Comparison, ...]
    gate: Gate | None
    seconds: float
    note: str = ""
    fall: str = ""

    @cached_property
    def outputs(self) -> dict[str, OutputComparison]:
        """Every output, over the samples of all cases."""
        names = self.comparisons[0].outputs if self.comparisons else ()
        return {name: pooled([comparison.outputs[name] for comparison in self.comparisons]) for name in names}

    @property
    def errors(self) -> dict[str, float]:
        """The largest error per output."""
        return {name: output.error for name, output in self.outputs.items() if output.errors.size}

    @property
    def cosines(self) -> dict[str, float]:
        """The smallest cosine per output."""
        return {name: output.cosine for name, output in self.outputs.items() if output.cosines.size}

    @property
    def agreement(self) -> float | None:
        """The share of all samples whose first class is the reference's, ties excused; None for features."""
        return next((output.agreement for output in self.outputs.values()), None)

    @property
    def strict(self) -> float | None:
        """The same share with no tie excused."""
        return next((output.strict for output in self.outputs.values()), None)

    def problem(self) -> str:
        """What is out of the gate, or much worse than the rung before, in words; empty where nothing is."""
        if self.gate is None:
            return ""
        problems = (self.gate.problem(output, name) for name, output in self.outputs.items())
        return next(filter(None, problems), self.fall)

    def fallen(self, before: Rung, *, allowance: float) -> str:
        """What is much further from the reference here than in the rung before, in words; empty where nothing is.

        Args:
            before: compared on the samples that both ran.
            allowance: error that chance, or rounding that begins here, may add.
        """
        earlier = {comparison.case: comparison.outputs for comparison in before.comparisons}
        for name in self.outputs:
            pairs = [
                (comparison.outputs[name].errors, earlier[comparison.case][name].errors)
                for comparison in self.comparisons
                if name in earlier.get(comparison.case, {})
            ]
            error, lower = (
                max((float(pair[side][: min(map(len, pair))].max(initial=0.0)) for pair in pairs),
                    default=0.0)
                for side in (0, 1)
            )  # fmt: skip
            if not error <= _FALL * lower + allowance:
                times = f", {error / lower:.1f} times as far" if lower else ""
                return (
                    f"{name} differs by {error:.2g} of its spread, in rung {before.name!r} by {lower:.2g}{times}; "
                    f"{_FALL:g} times that and {allowance:.2g} are allowed"
                )
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest: the worst over all cases, then case by case."""
        return {
            "name": self.name,
            "status": self.status,
            "errors": {name: finite(error) for name, error in self.errors.items()},
            "cosines": self.cosines,
            "agreement": self.agreement,
            "strict": self.strict,
            "tolerance": None if self.gate is None else self.gate.max_error,
            "gate": None if self.gate is None else asdict(self.gate),
            "seconds": self.seconds,
            "note": self.note,
            "outputs": {name: output.to_dict() for name, output in self.outputs.items()},
            "cases": [comparison.to_dict() for comparison in self.comparisons],
        }


@dataclass(kw_only=True, eq=False)
class Ladder:
    """Climbs from the reference to the artifact and remembers every rung.

    Args:
        cases: what every rung is run on.
        kinds: what each output is for, by name; features where an output is not named.
    """

    cases: tuple[Case, ...]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    rungs: list[Rung] = field(default_factory=list)
    _computed: frozenset[str] = frozenset()  # the precisions of the last stage that ran

    def climb(self, stage: Stage) -> None:
        """Run a stage, and stop where it is out of its gate or much worse than the last stage that ran.

        Args:
            stage: with the cases that it is run on; one that cannot be run is remembered as skipped.

        Raises:
            GateError: says by how much.
        """
        if stage.run is None:
            self.skip(stage.name, stage.note)
            return
        quantized, added = self._computed == {ROUNDED}, self._may_add(stage)
        rung = self.compare(
            stage.name, stage.run, gate=stage.gate, allowance=added, note=stage.note, cases=stage.cases or self.cases
        )
        self._computed = stage.computes
        gates.require_passed(rung, quantized=quantized)

    def try_out(self, stage: Stage) -> None:
        """What :meth:`climb` does, without remembering the rung."""
        dataclasses.replace(self, rungs=list(self.rungs)).climb(stage)

    def _may_add(self, stage: Stage) -> float:
        """Error that a stage may add to that of the last one: chance, and the rounding that begins with it."""
        begins = stage.computes - self._computed - {"fp32"}
        if not begins:
            return stage.gate.chance
        if self._computed == {ROUNDED}:  # the integers were rounded before
            return max(stage.gate.chance, *(GATES[name].rounding for name in begins if name not in QUANTIZED), 0.0)
        return stage.gate.rounding

    def compare(
        self,
        name: str,
        run: Run,
        *,
        gate: Gate,
        allowance: float | None = None,
        note: str = "",
        cases: Sequence[Case] | None = None,
    ) -> Rung:
        """Run one stage and compare its outputs.

        Args:
            run: from inputs to outputs, by name.
            gate: what every output has to stay within.
            allowance: error that this stage may add to twice that of the last stage that ran; the gate's own by
                default.
            cases: other cases than all of them.
        """
        start = time.perf_counter()
        chosen = self.cases if cases is None else cases
        rung = Rung(
            name=name,
            status="passed",
            comparisons=tuple(self._compare(case, run, gate) for case in chosen),
            gate=gate,
            seconds=time.perf_counter() - start,
            note=note,
        )
        before = next((earlier for earlier in reversed(self.rungs) if earlier.comparisons), None)
        if before is not None:
            added = gate.chance if allowance is None else allowance
            rung = dataclasses.replace(rung, fall=rung.fallen(before, allowance=added))
        if rung.problem():
            rung = dataclasses.replace(rung, status="failed")
        self.rungs.append(rung)
        return rung

    def clear(self) -> None:
        """Forget every rung, for a build that starts again."""
        self.rungs.clear()
        self._computed = frozenset()

    def skip(self, name: str, reason: str) -> None:
        """Remember that this machine cannot run a stage, and why."""
        self.rungs.append(Rung(name=name, status="skipped", comparisons=(), gate=None, seconds=0.0, note=reason))

    def remark(self, note: str) -> None:
        """Say more of how the last rung ran; nothing where the note is empty."""
        last = self.rungs[-1]
        self.rungs[-1] = dataclasses.replace(last, note="; ".join(filter(None, (last.note, note))))

    def worst_batch(self, rung: Rung) -> Arrays:
        """The inputs of the batch with the largest error of a sample.

        Args:
            rung: compared on cases of this ladder, or on their leading batches.
        """
        worst = max(rung.comparisons, key=lambda one: max(one.errors.values(), default=0.0))
        case = next(case for case in self.cases if case.name == worst.case)
        return (case.inputs, *case.more)[worst.worst_batch]

    def _compare(self, case: Case, run: Run, gate: Gate) -> Comparison:
        batches = [run(inputs) for inputs in (case.inputs, *case.more)]
        outputs = {}
        for name, expected in case.reference.items():
            parts = [np.asarray(batch.get(name, np.empty(0))) for batch in batches]
            fits = all(part.shape[1:] == expected.shape[1:] for part in parts)
            actual = np.concatenate(parts)[: len(expected)] if fits else np.empty(0)
            outputs[name] = compare(actual, expected, kind=self.kinds.get(name, "features"), tie=gate.tie)

        def error(number: int) -> tuple[bool, float]:
            # Where a batch is not finite, the errors of all of them are infinite.
            rows = slice(number * case.batch, (number + 1) * case.batch)
            return max(
                (not np.isfinite(batches[number].get(name, 0.0)).all(), float(compared.errors[rows].max(initial=0.0)))
                for name, compared in outputs.items()
            )

        return Comparison(
            case=case.name,
            batch=case.batch,
            clips=case.clips,
            outputs=outputs,
            worst_batch=max(range(len(batches)), key=error),
        )


def finite(value: float) -> float | None:
    """A value as JSON can hold it: None for NaN and infinities."""
    return value if np.isfinite(value) else None
