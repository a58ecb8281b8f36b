"""Comparison of a model's outputs with reference outputs: what leaves the answers unchanged leaves it unchanged.

One function and two records, for the compiler's parity ladder and for the self-test on a device::

    found = compare(actual, expected, kind="softmax", tie=limits.tie)   # an OutputComparison
    print(found.strict, found.agreement, found.error)
    if problem := limits.problem(found, "logits"):                      # a Limits; in words, empty where it passes
        ...

``kind`` says what an output is for. ``softmax``: logits of which one class is the answer. ``sigmoid``: logits that each
are an answer. ``features``: vectors that are compared with each other by cosine.

What is compared, per sample (a clip), and why:

- A constant added to all logits changes no answer of a softmax, and a large one would make any error small beside the
  largest logit and any cosine 1. Logits are centred first: those of a softmax each around their own mean over the
  classes, those of sigmoids both around the reference's mean, since there a constant that only the engine adds does
  change the answers.
- Errors are relative to the spread of the reference's centred sample, or to the median spread of all samples where
  that is larger: a loud clip hides no other, and a clip between two classes, whose logits are all alike, makes no
  error large. Below :data:`FLAT` there is nothing to tell apart, and it stands for the spread.
- ``distance`` is in probabilities: the total variation of a softmax, the largest difference over sigmoids.
- ``strict`` counts the samples whose first class is the reference's. ``agreement`` also counts those where the
  reference itself separates the two classes by less than its numerical noise, ``tie`` times that spread, as a root mean
  square. Noise and logits grow alike, so a positive scale changes neither share.
- Rankings, of sigmoids per sample over the classes and per class over the samples, and of features over each sample's
  neighbours: the share of pairs that keep their order, among those that the reference separates by more than its
  noise.

Rankings over samples need all samples at once. Outputs are small: run an engine in chunks and concatenate its outputs.
:func:`pooled` sums up comparisons of other samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Float64
from kdcmae.runtime.rankings import Ranking, kept_neighbours, kept_order
from kdcmae.runtime.scores import scores

__all__ = ["FLAT", "Kind", "Limits", "OutputComparison", "compare", "compare_first", "distribution", "pooled"]

Kind = Literal["softmax", "sigmoid", "features"]

FLAT = 0.05
"""Root mean square, in logits, below which classes are not told apart: none is more than a few per cent likelier."""

_TOP = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputComparison:
    """One output compared with its reference, sample by sample.

    Args:
        kind: what the output is for.
        errors: (N,) largest difference, relative to the sample's largest centred reference value; infinite where
            shapes or NaNs differ. Empty, as the cosines, where only classes were compared.
        cosines: (N,) of the centred outputs; -1 where shapes or NaNs differ.
        distances: (N,) in [0, 1], of the probabilities; empty for features.
        first: (N,) bool, the first class is the reference's; empty for features.
        tied: (N,) bool, it is not, but the reference separates the two by less than its noise; empty for features.
        top5: (N,) share of the reference's five best classes among the five best; empty for features and for fewer
            than six classes.
        clips: ranking within each sample: of the classes for sigmoids, of the neighbours for features.
        classes: ranking of the samples by each class, for sigmoids.
    """

    kind: Kind
    errors: Float64
    cosines: Float64
    distances: Float64
    first: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    top5: Float64
    clips: Ranking | None = None
    classes: Ranking | None = None

    @property
    def samples(self) -> int:
        """How many were compared."""
        return max(len(self.errors), len(self.first))

    @property
    def error(self) -> float:
        """The largest error of any sample."""
        return float(self.errors.max(initial=0.0))

    @property
    def cosine(self) -> float:
        """The smallest cosine of any sample."""
        return float(self.cosines.min(initial=1.0))

    def cosine_but_for(self, outliers: float) -> float:
        """The smallest cosine of all samples but this share of them."""
        left = np.sort(self.cosines)[int(outliers * len(self.cosines)) :]
        return float(left.min(initial=1.0))

    @property
    def distance(self) -> float | None:
        """The mean distance of the probabilities; None for features."""
        return float(self.distances.mean()) if self.distances.size else None

    @property
    def strict(self) -> float | None:
        """Share of samples with the reference's first class; None for features."""
        return float(self.first.mean()) if self.first.size else None

    @property
    def agreement(self) -> float | None:
        """The same share, and of those that the reference's noise excuses; None for features."""
        return float((self.first | self.tied).mean()) if self.first.size else None

    @property
    def ranked(self) -> float | None:
        """The smallest share of pairs that a ranking keeps; None where nothing is ranked."""
        found = [ranking.kept for ranking in (self.clips, self.classes) if ranking is not None and ranking.pairs]
        return min(found, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for a manifest: the shares, and how errors, cosines and distances are distributed."""
        found: dict[str, Any] = {"kind": self.kind, "samples": self.samples}
        for name, values in (("error", self.errors), ("cosine", self.cosines), ("distance", self.distances)):
            if values.size:
                found[name] = distribution(values)
        shares = {
            "mean_distance": self.distance,
            "strict": self.strict,
            "agreement": self.agreement,
            "top5": float(self.top5.mean()) if self.top5.size else None,
            "ranking_clips": self.clips.kept if self.clips and self.clips.pairs else None,
            "ranking_classes": self.classes.kept if self.classes and self.classes.pairs else None,
        }
        return found | {name: share for name, share in shares.items() if share is not None}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an output must stay within.

    Args:
        max_error: largest error of a sample; None where only the direction of the outputs is promised, as with int8.
        min_cosine: smallest cosine of a sample.
        outliers: share of the samples whose cosine may be smaller, such as clips beyond the ranges that an 8-bit model
            was calibrated for.
        max_distance: largest mean distance of the probabilities.
        min_agreement: smallest share of samples whose first class is the reference's, ties excused.
        min_ranked: smallest share of pairs that a ranking keeps.
        tie: the reference's numerical noise in this precision, relative to the spread: classes closer than this come in
            an order that chance decides.
    """

    max_error: float | None
    min_cosine: float
    outliers: float = 0.0
    max_distance: float = 1.0
    min_agreement: float
    min_ranked: float = 0.0
    tie: float

    def problem(self, found: OutputComparison, name: str) -> str:
        """What is out of the limits, in words; empty where nothing is.

        Args:
            found: compared with this ``tie``.
            name: of the output.
        """
        where = "" if found.kind == "features" else ", centred,"
        if not np.isfinite(found.errors).all():  # which no share of outliers excuses
            return f"{name} is not finite on every sample, or of another shape"
        if self.max_error is not None and not found.error <= self.max_error:
            return f"{name}{where} differs by {found.error:.1e} of its spread, allowed {self.max_error:.0e}"
        cosine = found.cosine_but_for(self.outliers)
        if not cosine >= self.min_cosine:
            but = f" but for {self.outliers:.0%} of the samples" if self.outliers else ""
            return f"the cosine of {name}{where} is {cosine:.6f}{but}, at least {self.min_cosine} is needed"
        if found.distance is not None and not found.distance <= self.max_distance:
            allowed = f"allowed {self.max_distance:.2%}"
            return f"the probabilities of {name} differ by {found.distance:.2%} on average, {allowed}"
        if found.kind == "softmax" and found.agreement is not None and found.agreement < self.min_agreement:
            return (
                f"top-1 agreement is {found.agreement:.1%} (strict {found.strict:.1%}), at least "
                f"{self.min_agreement:.1%} is needed"
            )
        if found.ranked is not None and found.ranked < self.min_ranked:
            return (
                f"{found.ranked:.1%} of the pairs keep their order in {name}, at least {self.min_ranked:.1%} is needed"
            )
        return ""


def compare(actual: NDArray[Any], expected: NDArray[Any], *, kind: Kind, tie: float) -> OutputComparison:
    """Compare one output of all samples with its reference.

    Args:
        actual, expected: (N, classes) logits, or (N, ...) features, N at least 1.
        kind: what the output is for.
        tie: the reference's numerical noise, as in :class:`Limits`.

    Returns:
        The comparison. Where shapes differ or ``actual`` is not finite, nothing agrees.
    """
    samples = len(expected)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return _nothing_agrees(samples, kind)
    ours, theirs = (array.reshape(samples, -1).astype(np.float64) for array in (actual, expected))
    centre = {"softmax": theirs.mean(axis=1, keepdims=True), "sigmoid": theirs.mean(), "features": 0.0}[kind]
    reference = theirs - centre
    centred = ours - (ours.mean(axis=1, keepdims=True) if kind == "softmax" else centre)
    typical = _typical(reference, kind)
    errors, cosines = _errors(centred, reference, typical), _cosines(centred, reference, typical / 2)
    empty, no = np.empty(0), np.empty(0, dtype=bool)
    if kind == "features":
        neighbours = kept_neighbours(ours, theirs, tie)
        return OutputComparison(
            kind=kind, errors=errors, cosines=cosines, distances=empty, first=no, tied=no, top5=empty, clips=neighbours
        )
    noise = _noise(theirs, np.maximum(_spreads(reference), typical), tie)
    apart = np.abs(scores(ours, kind) - scores(theirs, kind))
    first, tied = _first(ours, theirs, noise)
    rankings: dict[str, Ranking] = {}
    if kind == "sigmoid":
        over_samples = np.full(ours.shape[1], np.sqrt((noise**2).mean()))
        rankings["clips"] = kept_order(ours, theirs, noise=noise)
        rankings["classes"] = kept_order(ours.T, theirs.T, noise=over_samples)
    return OutputComparison(
        kind=kind,
        errors=errors,
        cosines=cosines,
        distances=apart.sum(axis=1) / 2 if kind == "softmax" else apart.max(axis=1),
        first=first,
        tied=tied,
        top5=_shared_best(ours, theirs) if ours.shape[1] > _TOP else empty,
        **rankings,
    )


def compare_first(logits: NDArray[Any], expected: Sequence[int], *, kind: Kind, tie: float) -> OutputComparison:
    """Compare the first class of one sample with expected ones, where nothing else is known of the reference.

    Args:
        logits: (classes,), finite.
        expected: classes of which one should come first.
        kind: what the logits are for, no features.
        tie: numerical noise of these logits, as in :class:`Limits`.
    """
    wide = logits[None].astype(np.float64)
    noise = _noise(wide, np.maximum(_spreads(wide - wide.mean()), FLAT), tie)
    behind = wide.max(axis=1) - wide[:, list(expected)].max(axis=1)
    empty = np.empty(0)
    return OutputComparison(
        kind=kind, errors=empty, cosines=empty, distances=empty, first=behind == 0,
        tied=(behind > 0) & (behind <= noise), top5=empty,
    )  # fmt: skip


def pooled(comparisons: Sequence[OutputComparison]) -> OutputComparison:
    """Several comparisons of one output as one: the samples of all, and the pairs of all rankings.

    Args:
        comparisons: at least one, of the same kind.
    """

    def joined(name: str) -> NDArray[Any]:
        found: NDArray[Any] = np.concatenate([getattr(one, name) for one in comparisons])
        return found

    def merged(name: str) -> Ranking | None:
        rankings = [ranking for one in comparisons if (ranking := getattr(one, name)) is not None]
        pairs = sum(ranking.pairs for ranking in rankings)
        kept = sum(ranking.pairs * ranking.kept for ranking in rankings) / pairs if pairs else 1.0
        return Ranking(pairs=pairs, kept=kept) if rankings else None

    arrays = {name: joined(name) for name in ("errors", "cosines", "distances", "first", "tied", "top5")}
    return OutputComparison(kind=comparisons[0].kind, clips=merged("clips"), classes=merged("classes"), **arrays)


def distribution(values: NDArray[Any]) -> Mapping[str, float | None]:
    """Quantiles, by name; None where a value is not finite."""
    names = ("min", "p05", "p25", "p50", "p75", "p95", "max")
    found = np.quantile(values, (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0), method="nearest")
    return {name: float(value) if np.isfinite(value) else None for name, value in zip(names, found, strict=True)}


def _nothing_agrees(samples: int, kind: Kind) -> OutputComparison:
    counted = 0 if kind == "features" else samples
    none = Ranking(pairs=1, kept=0.0)
    return OutputComparison(
        kind=kind,
        errors=np.full(samples, np.inf),
        cosines=np.full(samples, -1.0),
        distances=np.ones(counted),
        first=np.zeros(counted, dtype=bool),
        tied=np.zeros(counted, dtype=bool),
        top5=np.zeros(counted),
        clips=None if kind == "softmax" else none,
        classes=none if kind == "sigmoid" else None,
    )


def _spreads(centred: Float64) -> Float64:
    """(N,) root mean squares."""
    found: Float64 = np.sqrt((centred**2).mean(axis=1))
    return found


def _typical(centred: Float64, kind: Kind) -> float:
    """The median spread of all samples, and no less than what can be told apart: a logit, where there is only one."""
    if kind == "features":
        return 0.0
    alone = kind == "sigmoid" and centred.shape[1] == 1
    return max(1.0 if alone else FLAT, float(np.median(_spreads(centred))))


def _errors(actual: Float64, expected: Float64, least: float) -> Float64:
    spread = np.maximum(np.abs(expected).max(axis=1), least)
    found: Float64 = np.abs(actual - expected).max(axis=1) / np.where(spread, spread, 1.0)
    return found


def _cosines(actual: Float64, expected: Float64, least: float) -> Float64:
    """(N,) cosines; both vectors have one more element, ``least`` per class, so that noise alone has no direction."""
    more = least**2 * actual.shape[1]
    lengths = np.sqrt(((actual**2).sum(axis=1) + more) * ((expected**2).sum(axis=1) + more))
    same = (actual == expected).all(axis=1)  # two zero vectors too
    return np.where(same, 1.0, ((actual * expected).sum(axis=1) + more) / np.where(lengths, lengths, 1.0))


def _noise(logits: Float64, spreads: Float64, tie: float) -> Float64:
    """(N,) differences of two logits below which the reference's order is chance."""
    resolution = np.spacing(np.abs(logits).max(axis=1).astype(np.float32))  # the reference is float32
    found: Float64 = tie * spreads + 2.0 * resolution
    return found


def _first(actual: Float64, expected: Float64, noise: Float64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) whether the first class is the reference's, and whether a tie excuses another."""
    chosen = np.take_along_axis(expected, actual.argmax(axis=1)[:, None], axis=1)[:, 0]
    behind = expected.max(axis=1) - chosen
    return behind == 0, (behind > 0) & (behind <= noise)


def _shared_best(actual: Float64, expected: Float64) -> Float64:
    """(N,) share of the reference's best classes among the best."""
    ours, theirs = (np.argsort(-array, axis=1, kind="stable")[:, :_TOP] for array in (actual, expected))
    found: Float64 = (theirs[:, :, None] == ours[:, None, :]).any(axis=2).mean(axis=1)
    return found
