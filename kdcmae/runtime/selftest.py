"""The self-test: whether an engine computes the same outputs on this machine as the model that it was built from.

The stored inputs go through ``infer``, and the stored clips go the way of an app: through ``classify``, with its
preprocessing and labels, or through ``prepare`` and ``infer`` if the engine has no labels. The outputs are compared
with the stored reference by :mod:`kdcmae.runtime.metrics`, within the limits of the precisions that the engine is for
and of those that execute here, whatever the build measured. A clip must keep its class if errors within these limits
cannot change it.

The limits of a low precision leave room for its rounding in any model, and so for damage that is smaller than that. An
engine that rounds is therefore also compared with its own outputs on the machine that built it, see
:meth:`~kdcmae.runtime.golden.Clips.limits_of_repeating`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import EngineError
from kdcmae.runtime.arrays import Float64
from kdcmae.runtime.backend import loaded_versions
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.golden import Clips, Golden
from kdcmae.runtime.manifest import Manifest, file_name
from kdcmae.runtime.metrics import FLAT, Kind, Limits, compare
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ
from kdcmae.runtime.scores import scores

if TYPE_CHECKING:
    from kdcmae.runtime.engine import Engine

__all__ = [
    "SelfTest",
    "decided",
    "examine",
    "kind_of",
    "outputs_of_clips",
    "summed_up",
    "tolerance",
]

_CERTAIN = 1 - 2.0**-53  # the largest score below 1, whose logit is finite

Outputs = dict[str, Float64]


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """Result of :meth:`Engine.self_test`.

    Args:
        max_error: largest error of any sample per output: the difference from the reference, relative to the largest
            value of that sample's reference, where logits are centred on their mean; infinite if the engine computed a
            NaN or an infinity. In a folder without clips, it is relative to the largest value of the whole reference.
        tolerance: largest error allowed per output.
        problems: differences that exceed the limits, in words.
        clips: number of clips that went the way of an app; 0 for an engine built by a release without them.
        decided: number of clips that must keep the reference's class.
    """

    max_error: dict[str, float]
    tolerance: dict[str, float]
    problems: tuple[str, ...] = ()
    clips: int = 0
    decided: int = 0

    @property
    def passed(self) -> bool:
        """Whether every output is finite and no difference exceeds its limit."""
        within = (math.isfinite(error) and error <= self.tolerance[name] for name, error in self.max_error.items())
        return not self.problems and all(within)

    def __str__(self) -> str:
        """The differences that exceed the limits, or else the errors, in words."""
        if self.problems:
            return "; ".join(self.problems)
        parts = [
            f"{name} differs by {error:.1e} of its largest value, allowed {self.tolerance[name]:.0e}"
            if math.isfinite(error)
            else f"{name} is not finite"
            for name, error in self.max_error.items()
        ]
        if self.clips:
            kept = f", {self.decided} keep their class" if self.decided else ""
            parts.append(f"{self.clips} clips as an app has them{kept}")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """Result of the self-test of one variant."""

    max_error: dict[str, float]
    tolerance: dict[str, float]
    problems: list[str] = field(default_factory=list)
    clips: int = 0
    decided: int = 0


def summed_up(findings: Iterable[_Findings]) -> SelfTest:
    """The result for an engine and its variants together."""
    variants = list(findings)
    return SelfTest(
        max_error={name: error for variant in variants for name, error in variant.max_error.items()},
        tolerance={name: limit for variant in variants for name, limit in variant.tolerance.items()},
        problems=tuple(problem for variant in variants for problem in variant.problems),
        clips=sum(variant.clips for variant in variants),
        decided=sum(variant.decided for variant in variants),
    )


def examine(engine: Engine, golden: Golden, variant: str) -> _Findings:
    """Test an engine, or a variant of it.

    Args:
        golden: the variant's inputs, clips and reference outputs.
        variant: name of the variant; empty for the engine itself.

    Raises:
        EngineError: the engine is closed, or fails on the stored inputs.
    """
    results = engine.infer(dict(golden.inputs))
    if golden.clips is None:
        return _by_largest_value(results, golden, variant)
    manifest, clips, executed = engine.manifests[variant], golden.clips, engine.products(variant)
    limits, same = clips.limits_of(executed), loaded_versions(manifest.libraries) == manifest.libraries
    repeating = None if engine.device else clips.limits_of_repeating(executed, this_cpu(), same_libraries=same)
    outputs, problems = outputs_of_clips(engine, manifest, clips)
    findings = _Findings(max_error={}, tolerance={}, problems=problems, clips=len(clips))
    for spec in manifest.outputs:
        name, kind = file_name(spec.name, variant), kind_of(manifest, spec.name)
        actual, reference = (_comparable(arrays[spec.name], kind) for arrays in (results, golden.reference))
        loose = _but_for_outliers(limits, len(reference))
        error, problem = _held(actual, reference, kind, loose, f"{name} of the stored inputs")
        problems += filter(None, [problem])
        errors = [error] if loose is limits or not math.isfinite(error) else []
        if spec.name in outputs:
            reference = _comparable(clips.reference[spec.name], kind)
            error, problem = _held(outputs[spec.name], reference, kind, limits, f"{name} of the clips")
            problems += filter(None, [problem])
            errors.append(error)
        findings.max_error[name], findings.tolerance[name] = max(errors, default=0.0), tolerance(limits)
        if repeating and spec.name in clips.built:
            _, problem = _held(outputs[spec.name], clips.built[spec.name], kind, repeating, f"{name} of the clips")
            problems += [f"it gave something else where it was built: {problem}"] if problem else []
    if clips.labels:
        logits = manifest.outputs[0].name
        must = decided(clips.reference[logits], limits)
        problems += _changed_classes(outputs[logits], clips.reference[logits], must, clips.labels)
        return dataclasses.replace(findings, decided=int(must.sum()))
    return findings


def decided(logits: NDArray[Any], limits: Limits) -> NDArray[np.bool_]:
    """Which clips must keep their class, because no output within the limits has another first class.

    An error changes the difference of two logits by at most twice the largest error, and by at most the rotation that
    the smallest cosine allows.

    Args:
        logits: (N, classes) reference logits.
        limits: limits of the precision that executes.

    Returns:
        (N,) bool.
    """
    if logits.shape[1] < 2:
        return np.ones(len(logits), dtype=bool)
    wide = logits.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    by_error = 2 * tolerance(limits) * np.maximum(np.abs(centred).max(axis=1), FLAT)
    turned = math.sqrt(2 * max(1 - limits.min_cosine**2, 0.0)) * np.hypot(np.linalg.norm(centred, axis=1), FLAT)
    second, first = np.sort(wide, axis=1)[:, -2:].T
    clear: NDArray[np.bool_] = first - second > np.minimum(by_error, turned)
    return clear


def tolerance(limits: Limits) -> float:
    """The largest error allowed, relative to a sample's largest value; infinite if only cosines are limited."""
    return math.inf if limits.max_error is None else limits.max_error


def kind_of(manifest: Manifest, output: str) -> Kind:
    """How an output is used: as logits of the manifest's kind of scores, or as features."""
    return manifest.scores if manifest.labels and output == manifest.outputs[0].name else "features"


def outputs_of_clips(engine: Engine, manifest: Manifest, clips: Clips) -> tuple[Outputs, list[str]]:
    """The outputs that an app gets for the clips: (N, classes) log-odds of the scores, or (N, ...) features, by name.

    Args:
        engine: engine that takes the clips.
        manifest: manifest of the engine, or of the variant that takes them.

    Returns:
        The outputs, NaN for clips on which the engine failed, and the failures in words.
    """
    problems = []
    if clips.labels != manifest.labels:
        problems.append(f"the labels are not the model's: {_first_difference(manifest.labels, clips.labels)}")
    rows: list[Outputs] = []
    for number in range(len(clips)):
        sound = None if clips.waveforms is None else clips.waveforms[number]
        frame = None if clips.frames is None else clips.frames[number]
        try:
            rows.append(_outputs(engine, manifest, clips, sound, frame))
        except EngineError as error:
            problems.append(f"clip {number + 1}: {error}")
            rows.append({name: np.full(array.shape[1:], np.nan) for name, array in clips.reference.items()})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, problems


def within(outputs: Outputs, clips: Clips, manifest: Manifest) -> NDArray[np.bool_]:
    """Which clips have all outputs within the limits of single samples.

    Args:
        outputs: outputs from :func:`outputs_of_clips`.
        clips: the clips that they belong to.

    Returns:
        (N,) bool.
    """
    limits = clips.limits_of({})
    good = np.ones(len(clips), dtype=bool)
    for name, output in outputs.items():
        kind = kind_of(manifest, name)
        compared = compare(output, _comparable(clips.reference[name], kind), kind=kind, tie=limits.tie)
        good &= (compared.cosines >= limits.min_cosine) & (compared.errors <= tolerance(limits))
    return good


def _outputs(
    engine: Engine, manifest: Manifest, clips: Clips, sound: NDArray[Any] | None, frame: NDArray[Any] | None
) -> Outputs:
    """The outputs of one clip, by name."""
    if len(set(clips.labels)) < max(len(clips.labels), 1):  # no labels, or two classes with the same label
        prepared = engine.prepare(sound, SAMPLE_RATE_HZ, None if frame is None else [frame])
        results = engine.infer({name: np.repeat(rows, manifest.batch.min, axis=0) for name, rows in prepared.items()})
        return {name: _comparable(result[0], kind_of(manifest, name)) for name, result in results.items()}
    predictions = engine.classify(sound, SAMPLE_RATE_HZ, frame, top=len(manifest.labels))
    by_label = {prediction.label: prediction.score for prediction in predictions}
    likelihood = np.array([by_label.get(label, np.nan) for label in clips.labels])
    return {manifest.outputs[0].name: _log_odds(likelihood, manifest.scores)}


def _held(actual: NDArray[Any], reference: NDArray[Any], kind: Kind, limits: Limits, name: str) -> tuple[float, str]:
    """The largest error of an output, and the exceeded limit in words.

    A share of agreement means nothing for a handful of samples: :func:`_changed_classes` looks at each of them.
    """
    compared = compare(actual, reference, kind=kind, tie=limits.tie)
    if not math.isfinite(compared.error):
        return math.inf, f"{name}: not finite, or not of the shape {reference.shape}"
    strict = dataclasses.replace(limits, min_agreement=0.0)
    return compared.error, strict.problem(compared, name)


def _but_for_outliers(limits: Limits, samples: int) -> Limits:
    """Limits for the batch of stored inputs, half of which may be outliers.

    The clips were chosen not to be outliers. The batch only serves to show that the engine does not mix up samples.
    """
    if not limits.outliers:
        return limits
    smallest = limits.min_cosine if samples > 1 else -1.0
    return Limits(max_error=None, min_cosine=smallest, outliers=0.5, min_agreement=0.0, tie=limits.tie)


def _changed_classes(
    outputs: NDArray[Any], reference: NDArray[Any], must: NDArray[np.bool_], labels: tuple[str, ...]
) -> Iterator[str]:
    """The clips that must keep their class and do not, in words."""
    for number in np.flatnonzero(must & np.isfinite(outputs).all(axis=1)):
        actual, expected = int(outputs[number].argmax()), int(reference[number].argmax())
        if actual != expected:
            yield f"clip {number + 1} is {labels[expected]!r} by the model, here {labels[actual]!r}"


def _comparable(output: NDArray[Any], kind: Kind) -> Float64:
    """An output in the form of :func:`outputs_of_clips`: logits become the log-odds of their scores."""
    if kind == "features" or not np.isfinite(output).all():
        return output.astype(np.float64)
    return _log_odds(scores(output, kind), kind)


def _log_odds(likelihood: Float64, kind: Kind) -> Float64:
    """Logits that have these scores, finite even for a score of 0 or 1; those of a softmax up to a constant."""
    bounded = np.clip(likelihood, np.finfo(np.float64).tiny, _CERTAIN)
    odds: Float64 = np.log(bounded) - (np.log1p(-bounded) if kind == "sigmoid" else 0.0)
    return odds


def _first_difference(labels: tuple[str, ...], built: tuple[str, ...]) -> str:
    """The first difference between two lists of labels, in words."""
    for number, (here, there) in enumerate(zip(labels, built, strict=False), start=1):
        if here != there:
            return f"number {number} is {here!r}, built as {there!r}"
    return f"there are {len(labels)}, built with {len(built)}"


def _by_largest_value(results: Mapping[str, NDArray[Any]], golden: Golden, variant: str) -> _Findings:
    """The result for a folder without clips."""
    findings = _Findings(max_error={}, tolerance={})
    for name, result in results.items():
        called, reference = file_name(name, variant), golden.reference[name].astype(np.float64)
        error, limit = math.inf, golden.tolerance[name]
        if result.shape == reference.shape and np.isfinite(result).all():
            error = float(np.abs(result - reference).max() / (np.abs(reference).max() or 1.0))
        if not math.isfinite(error):
            findings.problems.append(f"{called} is not finite, or not of the shape {reference.shape}")
        elif not error <= limit:
            findings.problems.append(f"{called} differs by {error:.1e} of its largest value, allowed {limit:.0e}")
        findings.max_error[called], findings.tolerance[called] = error, limit
    return findings
