"""Does an engine compute here what its model computes? The answer in figures and in words.

The stored inputs go through ``infer``, the stored clips through what an app calls: ``classify`` with its preprocessing
and its labels, or ``prepare`` and ``infer`` of an engine without labels. What comes out is compared with the stored
reference by :mod:`kdcmae.runtime.metrics`, within the limits of the precisions that the engine is for and of those that
execute here, whatever the build measured. A clip that these limits cannot move to another class must keep its class.

The limits of a low precision leave room for what its rounding does to any model, and so for damage that does less. An
engine that rounds is therefore also compared with what it gave itself where it was built, see
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

_CERTAIN = 1 - 2.0**-53  # a score next to 1, whose logit is finite

Outputs = dict[str, Float64]


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What :meth:`Engine.self_test` found.

    Args:
        max_error: per output, the largest difference from the reference of any sample, relative to the largest value
            of that sample's reference, logits around their mean; infinite where the engine gave a NaN or an infinity.
            Of a folder without clips, relative to the largest value of the whole reference.
        tolerance: per output, the largest error allowed.
        problems: what differs by more than is allowed, in words; empty where nothing does.
        clips: how many went through the app's own path; 0 for an engine that was built before there were any.
        decided: those of them that must keep the reference's class.
    """

    max_error: dict[str, float]
    tolerance: dict[str, float]
    problems: tuple[str, ...] = ()
    clips: int = 0
    decided: int = 0

    @property
    def passed(self) -> bool:
        """Nothing differs by more than is allowed, and every output is finite."""
        within = (math.isfinite(error) and error <= self.tolerance[name] for name, error in self.max_error.items())
        return not self.problems and all(within)

    def __str__(self) -> str:
        """What was found, in words: what differs, or how exactly the engine computes."""
        if self.problems:
            return "; ".join(self.problems)
        found = [
            f"{name} differs by {error:.1e} of its largest value, allowed {self.tolerance[name]:.0e}"
            if math.isfinite(error)
            else f"{name} is not finite"
            for name, error in self.max_error.items()
        ]
        if self.clips:
            kept = f", {self.decided} keep their class" if self.decided else ""
            found.append(f"{self.clips} clips as an app has them{kept}")
        return "; ".join(found)


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """The self-test of one variant."""

    max_error: dict[str, float]
    tolerance: dict[str, float]
    problems: list[str] = field(default_factory=list)
    clips: int = 0
    decided: int = 0


def summed_up(findings: Iterable[_Findings]) -> SelfTest:
    """One self-test of an engine and its variants."""
    found = list(findings)
    return SelfTest(
        max_error={name: error for one in found for name, error in one.max_error.items()},
        tolerance={name: limit for one in found for name, limit in one.tolerance.items()},
        problems=tuple(problem for one in found for problem in one.problems),
        clips=sum(one.clips for one in found),
        decided=sum(one.decided for one in found),
    )


def examine(engine: Engine, golden: Golden, variant: str) -> _Findings:
    """Test an engine, or a variant of it.

    Args:
        engine: that was loaded.
        golden: what the variant is tested with.
        variant: its name; empty for the engine itself.

    Raises:
        EngineError: the engine is closed, or fails on the stored inputs.
    """
    results = engine.infer(dict(golden.inputs))
    if golden.clips is None:
        return _by_largest_value(results, golden, variant)
    manifest, clips, executed = engine.manifests[variant], golden.clips, engine.products(variant)
    limits, same = clips.limits_of(executed), loaded_versions(manifest.libraries) == manifest.libraries
    again = None if engine.device else clips.limits_of_repeating(executed, this_cpu(), same_libraries=same)
    found, problems = outputs_of_clips(engine, manifest, clips)
    findings = _Findings(max_error={}, tolerance={}, problems=problems, clips=len(clips))
    for spec in manifest.outputs:
        name, kind = file_name(spec.name, variant), kind_of(manifest, spec.name)
        ours, reference = (_comparable(one[spec.name], kind) for one in (results, golden.reference))
        loose = _but_for_outliers(limits, len(reference))
        error, problem = _held(ours, reference, kind, loose, f"{name} of the stored inputs")
        problems += filter(None, [problem])
        errors = [error] if loose is limits or not math.isfinite(error) else []
        if spec.name in found:
            reference = _comparable(clips.reference[spec.name], kind)
            error, problem = _held(found[spec.name], reference, kind, limits, f"{name} of the clips")
            problems += filter(None, [problem])
            errors.append(error)
        findings.max_error[name], findings.tolerance[name] = max(errors, default=0.0), tolerance(limits)
        if again and spec.name in clips.built:
            _, problem = _held(found[spec.name], clips.built[spec.name], kind, again, f"{name} of the clips")
            problems += [f"it gave something else where it was built: {problem}"] if problem else []
    if clips.labels:
        wanted = clips.reference[manifest.outputs[0].name]
        must = decided(wanted, limits)
        problems += _changed_classes(found[manifest.outputs[0].name], wanted, must, clips.labels)
        return dataclasses.replace(findings, decided=int(must.sum()))
    return findings


def decided(logits: NDArray[Any], limits: Limits) -> NDArray[np.bool_]:
    """(N,) whether no output within the limits gives a clip another first class.

    Two logits come closer by at most twice the largest error, and by at most what the smallest cosine lets them turn.

    Args:
        logits: (N, classes) of the reference.
        limits: of the precision that executes.
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
    """The largest error allowed, relative to a sample's largest value; infinite where only cosines are limited."""
    return math.inf if limits.max_error is None else limits.max_error


def kind_of(manifest: Manifest, output: str) -> Kind:
    """What an output is for."""
    return manifest.scores if manifest.labels and output == manifest.outputs[0].name else "features"


def outputs_of_clips(engine: Engine, manifest: Manifest, clips: Clips) -> tuple[Outputs, list[str]]:
    """What an app gets for the clips: (N, classes) log-odds of the scores, or (N, ...) features, by output.

    Args:
        engine: that takes what the clips have.
        manifest: of the engine, or of its variant that takes it.
        clips: as an app has them.

    Returns:
        The outputs, NaN where the engine gave none, and what went wrong, in words.
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
    """(N,) whether all outputs of a clip are within the limits of single samples.

    Args:
        outputs: as :func:`outputs_of_clips` gives them.
        clips: whose outputs they are.
        manifest: of the engine.
    """
    limits = clips.limits_of({})
    good = np.ones(len(clips), dtype=bool)
    for name, found in outputs.items():
        kind = kind_of(manifest, name)
        compared = compare(found, _comparable(clips.reference[name], kind), kind=kind, tie=limits.tie)
        good &= (compared.cosines >= limits.min_cosine) & (compared.errors <= tolerance(limits))
    return good


def _outputs(
    engine: Engine, manifest: Manifest, clips: Clips, sound: NDArray[Any] | None, frame: NDArray[Any] | None
) -> Outputs:
    """The outputs of one clip, by name."""
    if len(set(clips.labels)) < max(len(clips.labels), 1):  # no labels, or some that two classes share
        prepared = engine.prepare(sound, SAMPLE_RATE_HZ, None if frame is None else [frame])
        results = engine.infer({name: np.repeat(rows, manifest.batch.min, axis=0) for name, rows in prepared.items()})
        return {name: _comparable(result[0], kind_of(manifest, name)) for name, result in results.items()}
    predictions = engine.classify(sound, SAMPLE_RATE_HZ, frame, top=len(manifest.labels))
    by_label = {prediction.label: prediction.score for prediction in predictions}
    likelihood = np.array([by_label.get(label, np.nan) for label in clips.labels])
    return {manifest.outputs[0].name: _log_odds(likelihood, manifest.scores)}


def _held(ours: NDArray[Any], reference: NDArray[Any], kind: Kind, limits: Limits, name: str) -> tuple[float, str]:
    """The largest error of an output, and what is out of the limits.

    Votes of a handful of samples are no share of agreement: :func:`_changed_classes` looks at each.
    """
    compared = compare(ours, reference, kind=kind, tie=limits.tie)
    if not math.isfinite(compared.error):
        return math.inf, f"{name}: not finite, or not of the shape {reference.shape}"
    strict = dataclasses.replace(limits, min_agreement=0.0)
    return compared.error, strict.problem(compared, name)


def _but_for_outliers(limits: Limits, samples: int) -> Limits:
    """The limits of a batch of stored inputs, half of which may be such samples as the limits let a few be.

    The clips were chosen to be none; a batch is there to show samples that got mixed up.
    """
    if not limits.outliers:
        return limits
    smallest = limits.min_cosine if samples > 1 else -1.0
    return Limits(max_error=None, min_cosine=smallest, outliers=0.5, min_agreement=0.0, tie=limits.tie)


def _changed_classes(
    found: NDArray[Any], reference: NDArray[Any], must: NDArray[np.bool_], labels: tuple[str, ...]
) -> Iterator[str]:
    """The clips that must keep their class and do not, in words."""
    for number in np.flatnonzero(must & np.isfinite(found).all(axis=1)):
        ours, theirs = int(found[number].argmax()), int(reference[number].argmax())
        if ours != theirs:
            yield f"clip {number + 1} is {labels[theirs]!r} by the model, here {labels[ours]!r}"


def _comparable(output: NDArray[Any], kind: Kind) -> Float64:
    """An output as :func:`outputs_of_clips` gives it: logits through their scores."""
    if kind == "features" or not np.isfinite(output).all():
        return output.astype(np.float64)
    return _log_odds(scores(output, kind), kind)


def _log_odds(likelihood: Float64, kind: Kind) -> Float64:
    """Logits that have these scores: of a softmax but for a constant, and finite where a score is 0 or 1."""
    bounded = np.clip(likelihood, np.finfo(np.float64).tiny, _CERTAIN)
    odds: Float64 = np.log(bounded) - (np.log1p(-bounded) if kind == "sigmoid" else 0.0)
    return odds


def _first_difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """Where two lists of labels part, in words."""
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=False), start=1):
        if ours != theirs:
            return f"number {number} is {ours!r}, built as {theirs!r}"
    return f"there are {len(found)}, built with {len(wanted)}"


def _by_largest_value(results: Mapping[str, NDArray[Any]], golden: Golden, variant: str) -> _Findings:
    """The test of folders that have no clips."""
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
