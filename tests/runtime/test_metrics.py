"""What leaves the answers unchanged changes no comparison, and what changes them does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from kdcmae.runtime.metrics import Limits, compare, pooled
from kdcmae.runtime.rankings import order_agreement

CLIPS, CLASSES = 32, 20
KINDS = ("softmax", "sigmoid", "features")
LIMITS = Limits(max_error=4e-2, min_cosine=0.999, max_distance=0.02, min_agreement=0.95, min_ranked=0.98, tie=0.02)


def reference(kind: str, seed: int = 0) -> np.ndarray:
    """Outputs as a trained model's, sigmoids near -7 as those of AudioSet."""
    draw = np.random.default_rng(seed)
    outputs = draw.normal(size=(CLIPS, CLASSES))
    outputs[np.arange(CLIPS), np.arange(CLIPS) % CLASSES] += 5
    return (outputs - (7 if kind == "sigmoid" else 0)).astype(np.float32)


def noisy(outputs: np.ndarray, share: float = 0.3) -> np.ndarray:
    return outputs + share * np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)


def verdict(actual: np.ndarray, expected: np.ndarray, kind: str) -> tuple[float | None, ...]:
    found = compare(actual, expected, kind=kind, tie=LIMITS.tie)
    numbers = (found.error, found.cosine, found.strict, found.agreement, found.ranked)
    return tuple(None if number is None else round(number, 4) for number in numbers)


UNCHANGING = {
    "a constant on all logits": lambda outputs: outputs - 10,
    "a positive scale": lambda outputs: outputs * 8,
    "permuted classes": lambda outputs: outputs[:, np.random.default_rng(2).permutation(CLASSES)],
    "permuted clips": lambda outputs: outputs[::-1],
}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("change", UNCHANGING.values(), ids=UNCHANGING)
def test_what_changes_no_answer_changes_no_comparison(kind, change, share):
    expected = reference(kind)
    actual = noisy(expected, share)
    before, after = verdict(actual, expected, kind), verdict(change(actual), change(expected), kind)
    assert after == pytest.approx(before, abs=2e-3)


def test_a_constant_of_the_engine_s_own_is_no_error_of_a_softmax_and_one_of_sigmoids():
    expected = reference("softmax")
    assert compare(expected - 10, expected, kind="softmax", tie=0.0).error < 1e-5
    found = compare(expected + 1, expected, kind="sigmoid", tie=0.0)
    assert found.error > 0.1
    assert found.ranked == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, None])
def test_nothing_agrees_where_shapes_differ_or_values_are_not_finite(kind, broken):
    expected = reference(kind)
    actual = expected[:, :-1] if broken is None else np.where(expected == expected.max(), broken, expected)
    found = compare(actual, expected, kind=kind, tie=1.0)
    assert (found.samples, found.error, found.cosine) == (CLIPS, float("inf"), -1.0)
    assert (found.strict, found.agreement) == ((None, None) if kind == "features" else (0, 0))
    assert LIMITS.problem(found, "outputs")
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_outputs_pass_and_a_large_error_does_not(kind):
    expected = reference(kind)
    assert verdict(expected, expected, kind)[:2] == (0, 1)
    assert not LIMITS.problem(compare(expected, expected, kind=kind, tie=LIMITS.tie), "outputs")
    for name, least in (("max_error", 0.0), ("min_cosine", 1.0), ("max_distance", 0.0), ("min_ranked", 1.0)):
        loose = Limits(max_error=None, min_cosine=-1.0, min_agreement=0.0, tie=0.0)
        limits = dataclasses.replace(loose, **{name: least})
        found = compare(noisy(expected, 1.0), expected, kind=kind, tie=0.0)
        if (name, kind) not in (("max_distance", "features"), ("min_ranked", "softmax")):
            assert "outputs" in limits.problem(found, "outputs"), name


def test_a_tie_is_excused_only_within_the_reference_s_noise_and_counted_apart():
    expected = np.array([[1.0, 1.001, -2.0], [1.0, 1.5, -2.0]], dtype=np.float32)
    for offset in (0, -100):
        found = compare(expected[:, [1, 0, 2]] + offset, expected + offset, kind="softmax", tie=0.01)
        assert (found.strict, found.agreement) == (0.0, 0.5)
    assert compare(expected[:, [1, 0, 2]], expected, kind="softmax", tie=0.0).agreement == 0


def test_what_is_constant_has_nothing_to_tell_apart():
    expected = np.full((4, 6), -8.0, dtype=np.float32)
    found = compare(expected + 1e-6 * np.arange(6, dtype=np.float32), expected, kind="softmax", tie=1e-4)
    assert (found.agreement, round(found.cosine, 6)) == (1.0, 1.0)
    assert found.error < 2e-4


def test_a_quiet_clip_is_not_hidden_by_a_loud_one():
    expected = reference("softmax")
    expected[0] *= 100
    actual = expected.copy()
    actual[1] = actual[1, ::-1]
    assert compare(actual, expected, kind="softmax", tie=0.0).error > 0.5


def test_a_clip_between_two_classes_makes_no_error_large():
    expected = np.array([[3.0, -3.0], [-2.0, 2.0], [4.0, -4.0], [0.001, -0.001]], dtype=np.float32)
    actual = expected - 0.01 * np.array([1, -1], dtype=np.float32)
    found = compare(actual, expected, kind="softmax", tie=0.01)
    assert found.error < 0.01
    assert found.cosine > 0.9999
    assert (found.strict, found.agreement) == (0.75, 1.0)


def test_rankings_count_pairs_that_the_reference_tells_apart():
    expected, reverse = np.arange(4.0)[None], np.arange(4.0)[None, ::-1]
    assert order_agreement(expected, expected, noise=np.zeros(1)).agreeing == 1
    assert (found := order_agreement(reverse, expected, noise=np.zeros(1))).agreeing == 0
    assert found.pairs == 6
    assert order_agreement(reverse, expected, noise=np.full(1, 1.5)).pairs == 3
    assert order_agreement(np.zeros((1, 4)), expected, noise=np.zeros(1)).agreeing == 0.5
    assert order_agreement(expected, np.zeros((1, 4)), noise=np.zeros(1)) == order_agreement(
        expected, expected, noise=np.full(1, 9)
    )


def test_the_mean_precision_that_audioset_loses_shows_in_the_ranking():
    """Noise of 0.5 on logits near -7 costs points of mAP, though most probabilities stay near 0."""
    expected = reference("sigmoid")
    found = compare(noisy(expected, 0.5), expected, kind="sigmoid", tie=0.02)
    assert found.ranked < 0.95
    assert min(found.to_dict()[name] for name in ("ranking_clips", "ranking_classes")) == found.ranked


def test_neighbours_of_features_are_ranked_whatever_they_have_in_common():
    expected = reference("features")
    for common in (0.0, 100.0):
        same = compare(noisy(expected, 1e-4) + common, expected + common, kind="features", tie=0.02)
        other = compare(expected[::-1] + common, expected + common, kind="features", tie=0.02)
        assert same.ranked > 0.98
        assert other.ranked < 0.8
    assert compare(expected[:4], expected[:4], kind="features", tie=0.02).ranked is None


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("samples", [1, 64])
def test_a_few_answers_of_their_own_are_compared_in_logits(classes: int, samples: int) -> None:
    """One class has nothing beside it, and two rare ones are nearly as unlikely: rounding is no fault there."""
    rng = np.random.default_rng(0)
    expected = -7 + rng.normal(size=(samples, 1)) * 3 + rng.normal(size=(samples, classes)) * 0.02
    rounded = compare(expected + 0.01, expected, kind="sigmoid", tie=2e-2)
    wrong = compare(-expected, expected, kind="sigmoid", tie=2e-2)
    if classes == 1 or samples > 1:
        assert rounded.error < 0.08
        assert rounded.cosine > 0.999
    assert wrong.error > 0.5
    assert wrong.cosine < 0.98


def test_a_sample_that_is_not_finite_is_no_outlier() -> None:
    expected = np.random.default_rng(0).normal(size=(64, 5))
    broken = expected[:2].copy()
    broken[0, 0] = np.nan
    limits = Limits(max_error=None, min_cosine=0.98, outliers=0.05, min_agreement=0.0, tie=0.0)
    whole = compare(expected, expected, kind="softmax", tie=0.0)
    assert not limits.problem(whole, "logits")
    found = pooled([whole, compare(broken, expected[:2], kind="softmax", tie=0.0)])
    assert limits.problem(found, "logits") == "logits is not finite on every sample, or of another shape"
