"""The rung below the ladder: the loaded model against what the user's own code computes.

The ladder starts at the loaded model, so that a wrong number of heads, other weights or other labels are equally wrong
on every rung. Only the code that the model was trained with can show that.

Source of the limits, measured with the shipped model on 64 clips. On the same inputs, its logits under bfloat16
autocast differ by 0.9 % of their spread on the worst clip; with another number of heads by 15 %, with every weight off
by 1 % by 1.4 %.
Where clips are prepared by other code, scores differ by 0.6 % on average for another resampler and by 3.3 % for sound
of half the volume, and no first class changes; with the picture not normalised it is 39 %, and half of the classes.
So clips show only gross faults, and identical inputs show fine ones too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdcmae.compile import models
from kdcmae.compile.expected import Expected, expected_outputs
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Comparison, Rung
from kdcmae.compile.settings import Expectation
from kdcmae.errors import GateError
from kdcmae.runtime.metrics import OutputComparison, compare, compare_first
from kdcmae.runtime.precisions import Gate

__all__ = ["compare_with_trained"]

_MAX_ERROR = 1e-2  # of the outputs' spread, on the same inputs
_MAX_DISTANCE = 0.05  # of the scores, on average over clips that the user's code prepared itself
_MIN_AGREEMENT = 0.9
_TIE = 0.05  # of the logits' spread: which of two classes so close comes first may hang on how a clip was prepared


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """How the loaded model compares on one batch.

    Args:
        comparison: as a rung has it; without errors where only classes are expected.
        prepared: both models had the same inputs.
        permuted: the logits are the expected ones in another order.
    """

    comparison: Comparison
    prepared: bool = False
    permuted: bool = False


def compare_with_trained(model: EngineModel, expectation: Expectation) -> Rung:
    """Compare the loaded model with the user's own code on the same inputs or clips.

    Args:
        model: of prepared inputs and all tokens.
        expectation: where the user's outputs come from; a script is executed.

    Returns:
        The rung "trained", passed.

    Raises:
        GateError: the model computes something else; says how far off it is and what to look at.
        DataError: the expected outputs cannot be read, or a clip of them.
        ConfigError: the user's function fails, or the model does not classify.
    """
    start = time.perf_counter()
    findings = [_compare(model, expected) for expected in expected_outputs(model, expectation)]
    same_inputs = all(finding.prepared for finding in findings)
    gate = Gate(
        max_error=_MAX_ERROR if same_inputs else None, min_cosine=0.0, min_agreement=_MIN_AGREEMENT, tie=_TIE,
        chance=0.0, rounding=0.0,
    )  # fmt: skip
    rung = Rung(
        name="trained",
        status="passed",
        comparisons=tuple(finding.comparison for finding in findings),
        gate=gate,
        seconds=time.perf_counter() - start,
    )
    if problem := _problem(rung, findings):
        raise GateError(
            f"the loaded model does not compute what {expectation.name} says: {problem}; nothing was built. Look at "
            "--num-heads, --weights, --modality, --labels, --fbank-mean, --fbank-std and how the clips were prepared"
        )
    return dataclasses.replace(rung, note=_note(rung, findings, expectation, same_inputs))


def _compare(model: EngineModel, expected: Expected) -> _Finding:
    computed = models.reference(model, expected.inputs)
    kinds = models.kinds(model)
    if expected.classes:
        name = model.outputs[0].name
        compared = compare_first(computed[name][0], expected.classes, kind=kinds[name], tie=_TIE)
        return _Finding(comparison=_comparison(expected, {name: compared}))
    outputs = {
        name: compare(computed[name], array, kind=kinds[name], tie=_TIE) for name, array in expected.outputs.items()
    }
    in_order = {
        name: compare(np.sort(computed[name], axis=1), np.sort(array, axis=1), kind=kinds[name], tie=_TIE)
        for name, array in expected.outputs.items()
    }
    return _Finding(
        comparison=_comparison(expected, outputs),
        prepared=expected.prepared or not model.labels,
        permuted=bool(model.labels) and all(compared.error <= _MAX_ERROR for compared in in_order.values()),
    )


def _comparison(expected: Expected, outputs: Mapping[str, OutputComparison]) -> Comparison:
    rows = len(next(iter(expected.inputs.values())))
    return Comparison(case=expected.name, batch=rows, outputs=outputs)


def _problem(rung: Rung, findings: Sequence[_Finding]) -> str:
    """What is out of its limit, in words; empty where nothing is."""
    exact = [finding.comparison for finding in findings if finding.prepared]
    error = max((error for comparison in exact for error in comparison.errors.values()), default=0.0)
    distance = _distance(findings)
    if rung.agreement is not None and rung.agreement < _MIN_AGREEMENT:
        problem = f"only {rung.agreement:.0%} of the first classes are the same (at least {_MIN_AGREEMENT:.0%} must be)"
    elif not error <= _MAX_ERROR:
        problem = f"outputs differ by {error:.1%} of their spread on the same inputs (allowed {_MAX_ERROR:.0%})"
    elif distance > _MAX_DISTANCE:
        problem = f"scores differ by {distance:.1%} on average (allowed {_MAX_DISTANCE:.0%})"
    else:
        return ""
    measured = [finding for finding in findings if finding.comparison.errors]
    if measured and all(finding.permuted for finding in measured) and (rung.strict or 0.0) < 1:
        problem += "; the logits are the expected ones in another order: the classes are permuted"
    return problem


def _distance(findings: Sequence[_Finding]) -> float:
    """Mean distance of the scores over clips that the user's code prepared itself."""
    apart = [
        output.distance or 0.0
        for finding in findings
        if not finding.prepared
        for output in finding.comparison.outputs.values()
    ]
    return float(np.mean(apart or [0.0]))


def _note(rung: Rung, findings: Sequence[_Finding], expectation: Expectation, same_inputs: bool) -> str:
    count = sum(finding.comparison.batch for finding in findings)
    parts = [f"the loaded model against {expectation.name} on {count} samples"]
    if rung.strict is not None:
        parts.append(f"{rung.strict:.0%} have the same first class")
    if rung.errors:
        parts.append("errors are relative to the spread of the outputs")
    if not same_inputs:
        parts.append(
            f"scores differ by {_distance(findings):.1%} on average, which other decoding and resampling do too"
        )
    return ", ".join(parts)
