"""Comparison of a model's outputs with reference outputs, unaffected by changes that leave the answers unchanged.

One function and two records, for the compiler's parity ladder and for the self-test on a device::

    comparison = compare(actual, expected, kind="softmax", tie=limits.tie)   # an OutputComparison
    print(comparison.strict, comparison.agreement, comparison.error)
    if problem := limits.problem(comparison, "logits"):                      # a Limits; empty if it passes
        ...

``kind`` is the use of an output. ``softmax``: logits of which one class is the answer. ``sigmoid``: logits that are an
answer each. ``features``: vectors that are compared with each other by cosine.

What is compared per sample (a clip), and why:

- Logits are centred first, because a constant added to all of them does not change the answers of a softmax, while a
  large constant would make any error relative to the largest logit small, and any cosine 1. Logits of a softmax are
  centred on their own mean over the classes. Those of sigmoids are both centred on the reference's mean, because there
  a constant that only the engine adds does change the answers.
- Errors are relative to the spread of the reference's centred sample, or to the median spread of all samples if that is
  larger. So a loud clip hides no other, and a clip between two classes, whose logits are all similar, makes no error
  large. A spread below :data:`FLAT` counts as :data:`FLAT`.
- ``distance`` is in probabilities: the total variation of a softmax, the largest difference over sigmoids.
- ``strict`` is the share of samples with the reference's first class. ``agreement`` adds those where the reference
  separates the two classes by less than its numerical noise: ``tie`` times that spread, as a root mean square. Noise
  scales with the logits, so a positive factor changes neither share.
- Rankings, of sigmoids per sample over the classes and per class over the samples, and of features over each sample's
  neighbours: the share of pairs in the same order, among those that the reference separates by more than its noise.

Rankings over samples need all samples at once. Outputs are small: run an engine in chunks and concatenate its outputs.
:func:`pooled` combines comparisons of several sets of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Float64
from kdcmae.runtime.rankings import Ranking, neighbour_agreement, order_agreement
from kdcmae.runtime.scores import scores

__all__ = ["FLAT", "Kind", "Limits", "OutputComparison", "compare", "compare_first", "distribution", "pooled"]

Kind = Literal["softmax", "sigmoid", "features"]

FLAT = 0.05
"""Root mean square, in logits, below which no class is more than a few per cent likelier than another."""

_TOP = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputComparison:
    """One output compared with its reference, sample by sample.

    Args:
        kind: use of the output.
        errors: (N,) largest difference, relative to the sample's largest centred reference value; infinite if shapes
            differ or values are not finite. Errors and cosines are empty if only classes were compared.
        cosines: (N,) cosines of the centred outputs; -1 if shapes differ or values are not finite.
        distances: (N,) distances of the probabilities, in [0, 1]; empty for features.
        first: (N,) bool, whether the first class is the reference's; empty for features.
        tied: (N,) bool, whether it is another that the reference separates by less than its noise; empty for features.
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
        """Number of samples."""
        return max(len(self.errors), len(self.first))

    @property
    def error(self) -> float:
        """Largest error of any sample."""
        return float(self.errors.max(initial=0.0))

    @property
    def cosine(self) -> float:
        """Smallest cosine of any sample."""
        return float(self.cosines.min(initial=1.0))

    def cosine_but_for(self, outliers: float) -> float:
        """Smallest cosine, without this share of the samples with the smallest ones."""
        left = np.sort(self.cosines)[int(outliers * len(self.cosines)) :]
        return float(left.min(initial=1.0))

    @property
    def distance(self) -> float | None:
        """Mean distance of the probabilities; None for features."""
        return float(self.distances.mean()) if self.distances.size else None

    @property
    def strict(self) -> float | None:
        """Share of samples with the reference's first class; None for features."""
        return float(self.first.mean()) if self.first.size else None

    @property
    def agreement(self) -> float | None:
        """Share of samples with the reference's first class or a tie; None for features."""
        return float((self.first | self.tied).mean()) if self.first.size else None

    @property
    def ranked(self) -> float | None:
        """Smallest share of pairs in the same order of any ranking; None if nothing is ranked."""
        shares = [ranking.agreeing for ranking in (self.clips, self.classes) if ranking is not None and ranking.pairs]
        return min(shares, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a manifest: the shares, and the distributions of errors, cosines and distances."""
        facts: dict[str, Any] = {"kind": self.kind, "samples": self.samples}
        for name, values in (("error", self.errors), ("cosine", self.cosines), ("distance", self.distances)):
            if values.size:
                facts[name] = distribution(values)
        shares = {
            "mean_distance": self.distance,
            "strict": self.strict,
            "agreement": self.agreement,
            "top5": float(self.top5.mean()) if self.top5.size else None,
            "ranking_clips": self.clips.agreeing if self.clips and self.clips.pairs else None,
            "ranking_classes": self.classes.agreeing if self.classes and self.classes.pairs else None,
        }
        return facts | {name: share for name, share in shares.items() if share is not None}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits for the difference between an output and its reference.

    Args:
        max_error: largest error of a sample; None if only the direction of the outputs is promised, as with int8.
        min_cosine: smallest cosine of a sample.
        outliers: share of the samples whose cosine may be smaller, such as clips beyond the ranges that an 8-bit model
            was calibrated for.
        max_distance: largest mean distance of the probabilities.
        min_agreement: smallest share of samples with the reference's first class or a tie.
        min_ranked: smallest share of pairs in the same order.
        tie: the reference's numerical noise in this precision, relative to the spread; the order of classes that are
            closer is random.
    """

    max_error: float | None
    min_cosine: float
    outliers: float = 0.0
    max_distance: float = 1.0
    min_agreement: float
    min_ranked: float = 0.0
    tie: float

    def problem(self, comparison: OutputComparison, name: str) -> str:
        """The first limit that is exceeded, in words; empty if none is.

        Args:
            comparison: comparison with this ``tie``.
        """
        where = "" if comparison.kind == "features" else ", centred,"
        if not np.isfinite(comparison.errors).all():  # even an outlier must be finite
            return f"{name} is not finite on every sample, or of another shape"
        if self.max_error is not None and not comparison.error <= self.max_error:
            return f"{name}{where} differs by {comparison.error:.1e} of its spread, allowed {self.max_error:.0e}"
        cosine = comparison.cosine_but_for(self.outliers)
        if not cosine >= self.min_cosine:
            but = f" but for {self.outliers:.0%} of the samples" if self.outliers else ""
            return f"the cosine of {name}{where} is {cosine:.6f}{but}, at least {self.min_cosine} is needed"
        if comparison.distance is not None and not comparison.distance <= self.max_distance:
            allowed = f"allowed {self.max_distance:.2%}"
            return f"the probabilities of {name} differ by {comparison.distance:.2%} on average, {allowed}"
        agreement, ranked = comparison.agreement, comparison.ranked
        if comparison.kind == "softmax" and agreement is not None and agreement < self.min_agreement:
            shares = f"{agreement:.1%} (strict {comparison.strict:.1%})"
            return f"top-1 agreement is {shares}, at least {self.min_agreement:.1%} is needed"
        if ranked is not None and ranked < self.min_ranked:
            return f"{ranked:.1%} of the pairs keep their order in {name}, at least {self.min_ranked:.1%} is needed"
        return ""


def compare(actual: NDArray[Any], expected: NDArray[Any], *, kind: Kind, tie: float) -> OutputComparison:
    """Compare one output of all samples with its reference.

    Args:
        actual, expected: (N, classes) logits, or (N, ...) features, N at least 1.
        tie: the reference's numerical noise, as in :class:`Limits`.

    Returns:
        The comparison. If shapes differ or ``actual`` is not finite, nothing agrees.
    """
    samples = len(expected)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return _nothing_agrees(samples, kind)
    values, wanted = (array.reshape(samples, -1).astype(np.float64) for array in (actual, expected))
    centre = {"softmax": wanted.mean(axis=1, keepdims=True), "sigmoid": wanted.mean(), "features": 0.0}[kind]
    reference = wanted - centre
    centred = values - (values.mean(axis=1, keepdims=True) if kind == "softmax" else centre)
    typical = _typical(reference, kind)
    errors, cosines = _errors(centred, reference, typical), _cosines(centred, reference, typical / 2)
    empty, no = np.empty(0), np.empty(0, dtype=bool)
    if kind == "features":
        neighbours = neighbour_agreement(values, wanted, tie)
        return OutputComparison(
            kind=kind, errors=errors, cosines=cosines, distances=empty, first=no, tied=no, top5=empty, clips=neighbours
        )
    noise = _noise(wanted, np.maximum(_spreads(reference), typical), tie)
    apart = np.abs(scores(values, kind) - scores(wanted, kind))
    first, tied = _first(values, wanted, noise)
    rankings: dict[str, Ranking] = {}
    if kind == "sigmoid":
        over_samples = np.full(values.shape[1], np.sqrt((noise**2).mean()))
        rankings["clips"] = order_agreement(values, wanted, noise=noise)
        rankings["classes"] = order_agreement(values.T, wanted.T, noise=over_samples)
    return OutputComparison(
        kind=kind,
        errors=errors,
        cosines=cosines,
        distances=apart.sum(axis=1) / 2 if kind == "softmax" else apart.max(axis=1),
        first=first,
        tied=tied,
        top5=_shared_best(values, wanted) if values.shape[1] > _TOP else empty,
        **rankings,
    )


def compare_first(logits: NDArray[Any], expected: Sequence[int], *, kind: Kind, tie: float) -> OutputComparison:
    """Compare the first class of one sample with the expected ones, if nothing else is known of the reference.

    Args:
        logits: (classes,), finite.
        expected: classes of which one should come first.
        kind: use of the logits, not features.
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
    """Combine several comparisons of one output: all their samples, and the pairs of all their rankings.

    Args:
        comparisons: one or more comparisons of the same kind.
    """

    def joined(name: str) -> NDArray[Any]:
        values: NDArray[Any] = np.concatenate([getattr(comparison, name) for comparison in comparisons])
        return values

    def merged(name: str) -> Ranking | None:
        rankings = [ranking for comparison in comparisons if (ranking := getattr(comparison, name)) is not None]
        pairs = sum(ranking.pairs for ranking in rankings)
        agreeing = sum(ranking.pairs * ranking.agreeing for ranking in rankings) / pairs if pairs else 1.0
        return Ranking(pairs=pairs, agreeing=agreeing) if rankings else None

    arrays = {name: joined(name) for name in ("errors", "cosines", "distances", "first", "tied", "top5")}
    return OutputComparison(kind=comparisons[0].kind, clips=merged("clips"), classes=merged("classes"), **arrays)


def distribution(values: NDArray[Any]) -> Mapping[str, float | None]:
    """Quantiles by name; None for a value that is not finite."""
    names = ("min", "p05", "p25", "p50", "p75", "p95", "max")
    quantiles = np.quantile(values, (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0), method="nearest")
    return {name: float(value) if np.isfinite(value) else None for name, value in zip(names, quantiles, strict=True)}


def _nothing_agrees(samples: int, kind: Kind) -> OutputComparison:
    counted = 0 if kind == "features" else samples
    none = Ranking(pairs=1, agreeing=0.0)
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
    spreads: Float64 = np.sqrt((centred**2).mean(axis=1))
    return spreads


def _typical(centred: Float64, kind: Kind) -> float:
    """The median spread of all samples, but at least :data:`FLAT`, or one logit if there is only one class."""
    if kind == "features":
        return 0.0
    single = kind == "sigmoid" and centred.shape[1] == 1
    return max(1.0 if single else FLAT, float(np.median(_spreads(centred))))


def _errors(actual: Float64, expected: Float64, least: float) -> Float64:
    spread = np.maximum(np.abs(expected).max(axis=1), least)
    errors: Float64 = np.abs(actual - expected).max(axis=1) / np.where(spread, spread, 1.0)
    return errors


def _cosines(actual: Float64, expected: Float64, least: float) -> Float64:
    """(N,) cosines. Both vectors get one more element, ``least`` per class, so that pure noise has no direction."""
    more = least**2 * actual.shape[1]
    lengths = np.sqrt(((actual**2).sum(axis=1) + more) * ((expected**2).sum(axis=1) + more))
    same = (actual == expected).all(axis=1)  # two zero vectors too
    return np.where(same, 1.0, ((actual * expected).sum(axis=1) + more) / np.where(lengths, lengths, 1.0))


def _noise(logits: Float64, spreads: Float64, tie: float) -> Float64:
    """(N,) differences of two logits below which the reference's order is random."""
    resolution = np.spacing(np.abs(logits).max(axis=1).astype(np.float32))  # the reference is float32
    noise: Float64 = tie * spreads + 2.0 * resolution
    return noise


def _first(actual: Float64, expected: Float64, noise: Float64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) whether the first class is the reference's, and whether it is another that is tied with it."""
    chosen = np.take_along_axis(expected, actual.argmax(axis=1)[:, None], axis=1)[:, 0]
    behind = expected.max(axis=1) - chosen
    return behind == 0, (behind > 0) & (behind <= noise)


def _shared_best(actual: Float64, expected: Float64) -> Float64:
    """(N,) share of the reference's best classes among the best."""
    best, wanted = (np.argsort(-array, axis=1, kind="stable")[:, :_TOP] for array in (actual, expected))
    shares: Float64 = (wanted[:, :, None] == best[:, None, :]).any(axis=2).mean(axis=1)
    return shares
