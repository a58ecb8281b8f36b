"""The rung below the ladder: the loaded model against what the user's own code computes.

The ladder starts at the loaded model, so that a wrong number of heads, other weights or other labels are wrong on every
rung alike. Only the code that the model was trained with can show that.

Source of the limits, measured with the shipped model on 64 clips. On the same inputs, its logits under bfloat16
autocast differ by 0.7 % of their spread; with another number of heads by 12 %, with every weight off by 1 % by 1.1 %.
Where clips are prepared by other code, scores differ by 0.6 % on average for another resampler and by 3.3 % for sound
of half the volume, and no first class changes; with the picture not normalised it is 39 %, and half of the classes.
Clips thus show gross faults alone, and the same inputs the fine ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.expected import Expected, expected_outputs
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays, Comparison, Rung, cosine, relative_error
from kdcmae.compile.settings import Expectation, Gate
from kdcmae.errors import GateError
from kdcmae.runtime.scores import Scores, scores

__all__ = ["compare_with_trained"]

_MAX_ERROR = 1e-2  # of the outputs' spread, on the same inputs
_MAX_DISTANCE = 0.05  # of the scores, on average over clips that the user's code prepared itself
_MIN_AGREEMENT = 0.9
_TIE = 0.05  # two classes with scores this close count as one: which comes first may hang on how a clip was prepared


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """How the loaded model compares on one batch.

    Args:
        comparison: as a rung has it; without errors where only classes are expected.
        distance: the scores' mean total variation, or of a multi-label model the mean largest difference.
        strict: share of equal first classes, without ties.
        prepared: both models had the same inputs.
        permuted: the logits are the expected ones in another order.
    """

    comparison: Comparison
    distance: float = 0.0
    strict: float = 1.0
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
    if problem := _problem(findings):
        raise GateError(
            f"the loaded model does not compute what {expectation.name} says: {problem}; nothing was built. Look at "
            "--num-heads, --weights, --modality, --labels, --fbank-mean, --fbank-std and how the clips were prepared"
        )
    strict = all(finding.prepared for finding in findings)
    gate = Gate(max_error=_MAX_ERROR if strict else None, min_cosine=0.0, min_agreement=_MIN_AGREEMENT, tie=_TIE)
    return Rung(
        name="trained",
        status="passed",
        comparisons=tuple(finding.comparison for finding in findings),
        gate=gate,
        seconds=time.perf_counter() - start,
        note=_note(findings, expectation, strict),
    )


def _compare(model: EngineModel, expected: Expected) -> _Finding:
    computed = models.reference(model, expected.inputs)
    rows = len(next(iter(expected.inputs.values())))
    if not model.labels:
        return _Finding(comparison=_comparison(expected, rows, computed, expected.outputs, None), prepared=True)
    name = model.outputs[0].name
    found = scores(computed[name], model.scores)
    if expected.classes:
        first = found[0].argmax()
        nearest = found[0, list(expected.classes)].max()
        agreed = float(found[0, first] - nearest <= _TIE)
        return _Finding(comparison=_comparison(expected, rows, {}, {}, agreed), strict=float(first in expected.classes))
    wanted = scores(expected.outputs[name], model.scores)
    chosen = np.take_along_axis(wanted, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    agreed = float((wanted.max(axis=1) - chosen <= _TIE).mean())
    ours, theirs = _spread(computed[name], expected.outputs[name], model.scores)
    in_order = (np.sort(array, axis=1) for array in (ours, theirs))
    return _Finding(
        comparison=_comparison(expected, rows, {name: ours}, {name: theirs}, agreed),
        distance=float(_distances(found, wanted, model.scores).mean()),
        strict=float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
        prepared=expected.prepared,
        permuted=relative_error(*in_order) <= _MAX_ERROR,
    )


def _comparison(expected: Expected, rows: int, ours: Arrays, theirs: Arrays, agreed: float | None) -> Comparison:
    return Comparison(
        case=expected.name,
        batch=rows,
        errors={name: relative_error(ours[name], array) for name, array in theirs.items()},
        cosines={name: cosine(ours[name], array) for name, array in theirs.items()},
        agreement=agreed,
    )


def _spread(
    ours: NDArray[np.floating], theirs: NDArray[np.floating], kind: Scores
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits around their mean, so that errors are relative to what tells classes apart.

    A constant added to all logits changes no score of a softmax, and every score of sigmoids.
    """
    wide, reference = ours.astype(np.float64), theirs.astype(np.float64)
    centre = reference.mean(axis=1, keepdims=True)
    return wide - (wide.mean(axis=1, keepdims=True) if kind == "softmax" else centre), reference - centre


def _distances(found: NDArray[np.float64], wanted: NDArray[np.float64], kind: Scores) -> NDArray[np.float64]:
    """Distance between the scores of each sample, (B,) in [0, 1]."""
    apart = np.abs(found - wanted)
    return apart.sum(axis=1) / 2 if kind == "softmax" else apart.max(axis=1)


def _problem(findings: Sequence[_Finding]) -> str:
    """What is out of its limit, in words; empty where nothing is."""
    exact = [finding.comparison for finding in findings if finding.prepared]
    error = max((error for one in exact for error in one.errors.values()), default=0.0)
    agreement, strict = _agreement(findings)
    distance = _distance(findings)
    if agreement is not None and agreement < _MIN_AGREEMENT:
        problem = f"only {agreement:.0%} of the first classes are the same (at least {_MIN_AGREEMENT:.0%} must be)"
    elif not error <= _MAX_ERROR:
        problem = f"outputs differ by {error:.1%} of their spread on the same inputs (allowed {_MAX_ERROR:.0%})"
    elif distance > _MAX_DISTANCE:
        problem = f"scores differ by {distance:.1%} on average (allowed {_MAX_DISTANCE:.0%})"
    else:
        return ""
    measured = [finding for finding in findings if finding.comparison.errors]
    if measured and all(finding.permuted for finding in measured) and strict < 1:
        problem += "; the logits are the expected ones in another order: the classes are permuted"
    return problem


def _agreement(findings: Sequence[_Finding]) -> tuple[float | None, float]:
    """Share of equal first classes with ties, None for features, and without ties."""
    counted = [finding for finding in findings if finding.comparison.agreement is not None]
    if not counted:
        return None, 1.0
    batches = [finding.comparison.batch for finding in counted]
    agreed = float(np.average([finding.comparison.agreement or 0.0 for finding in counted], weights=batches))
    return agreed, float(np.average([finding.strict for finding in counted], weights=batches))


def _distance(findings: Sequence[_Finding]) -> float:
    """Mean distance of the scores over clips that the user's code prepared itself."""
    return float(np.mean([finding.distance for finding in findings if not finding.prepared] or [0.0]))


def _note(findings: Sequence[_Finding], expectation: Expectation, same_inputs: bool) -> str:
    count = sum(finding.comparison.batch for finding in findings)
    agreement, strict = _agreement(findings)
    parts = [f"the loaded model against {expectation.name} on {count} samples"]
    if agreement is not None:
        parts.append(f"{strict:.0%} have the same first class")
    if any(finding.comparison.errors for finding in findings):
        parts.append("errors are relative to the spread of the outputs")
    if not same_inputs:
        parts.append(
            f"scores differ by {_distance(findings):.1%} on average, which other decoding and resampling do too"
        )
    return ", ".join(parts)
