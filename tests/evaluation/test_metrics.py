from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdcmae.errors import DataError
from kdcmae.evaluation.metrics import accuracy, average_precision, confusion_matrix, d_prime, roc_auc


@st.composite
def ranked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and labels of both kinds."""
    size = draw(st.integers(2, 30))
    scores = draw(hnp.arrays(np.float64, size, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0])))
    positives = draw(hnp.arrays(np.bool_, size).filter(lambda array: array.any() and not array.all()))
    return scores, positives


@given(ranked())
def test_auc_is_the_share_of_pairs_in_order(sample: tuple[np.ndarray, np.ndarray]) -> None:
    scores, positives = sample
    pairs = list(product(scores[positives], scores[~positives]))
    won = sum(1.0 if good > bad else 0.5 if good == bad else 0.0 for good, bad in pairs)
    assert roc_auc(scores, positives) == pytest.approx(won / len(pairs), abs=1e-12)


@given(ranked())
def test_average_precision_is_the_sum_over_thresholds(sample: tuple[np.ndarray, np.ndarray]) -> None:
    scores, positives = sample
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        new_recall = positives[found].sum() / positives.sum()
        expected += (new_recall - recall) * positives[found].mean()
        recall = new_recall
    assert average_precision(scores, positives) == pytest.approx(expected, abs=1e-12)


@given(ranked(), st.randoms(use_true_random=False))
def test_only_the_ranking_matters(sample: tuple[np.ndarray, np.ndarray], random: object) -> None:
    scores, positives = sample
    order = np.random.default_rng(random.randrange(99)).permutation(len(scores))  # type: ignore[attr-defined]
    for measure in (roc_auc, average_precision):
        expected = measure(scores, positives)
        assert measure(np.exp(scores)[order], positives[order]) == pytest.approx(expected, abs=1e-12)
        assert 0.0 <= expected <= 1.0


@given(ranked())
def test_auc_turns_over_with_the_scores(sample: tuple[np.ndarray, np.ndarray]) -> None:
    scores, positives = sample
    assert roc_auc(scores, positives) + roc_auc(-scores, positives) == pytest.approx(1.0, abs=1e-12)


def test_values_worked_out_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.1])
    positives = np.array([True, False, True, False])
    assert average_precision(scores, positives) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert roc_auc(scores, positives) == pytest.approx(3.5 / 4)
    perfect = np.array([True, True, False, False]), np.array([4.0, 3.0, 2.0, 1.0])
    assert average_precision(perfect[1], perfect[0]) == 1.0
    assert roc_auc(perfect[1], perfect[0]) == 1.0


def test_what_cannot_be_measured_is_nan() -> None:
    scores = np.array([0.1, 0.2])
    assert math.isnan(average_precision(scores, np.array([False, False])))
    assert math.isnan(roc_auc(scores, np.array([False, False])))
    assert math.isnan(roc_auc(scores, np.array([True, True])))
    assert average_precision(scores, np.array([True, True])) == 1.0
    assert math.isnan(accuracy(scores[None], np.array([[False, False]])))


def test_accuracy() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4], [0.0, 0.0, 1.0]])
    positives = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert accuracy(scores, positives) == pytest.approx((1 + 0 + 0.5) / 3)  # the last clip has no label


@given(hnp.arrays(np.bool_, (7, 4)).filter(lambda labels: labels.any()))
def test_a_model_that_cannot_decide_gets_what_chance_gets(positives: np.ndarray) -> None:
    labelled = positives[positives.any(axis=1)]
    assert accuracy(np.ones((7, 4)), positives) == pytest.approx(labelled.mean())


@pytest.mark.parametrize(("auc", "expected"), [(0.5, 0.0), (0.975, 2.7718), (0.025, -2.7718), (1.0, math.inf)])
def test_d_prime(auc: float, expected: float) -> None:
    assert d_prime(auc) == pytest.approx(expected, abs=1e-4)


def test_d_prime_at_its_ends() -> None:
    assert d_prime(0.0) == -math.inf
    assert math.isnan(d_prime(math.nan))


@pytest.mark.parametrize("measure", [roc_auc, average_precision])
def test_scores_that_cannot_rank_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        measure(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(DataError, match="one shape"):
        measure(np.array([0.1]), np.array([True, False]))
    with pytest.raises(DataError, match="not empty"):
        measure(np.array([]), np.array([], dtype=bool))


def test_confusion_counts_own_classes_against_best_ones() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.5, 0.5, 0.0]])
    positives = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    # The third clip has two labels and is right; the fourth has two and is wrong in both; the last one has none.
    assert confusion_matrix(scores, positives).tolist() == [[1, 2, 0], [0, 1, 0], [0, 1, 0]]
    with pytest.raises(DataError, match="not finite"):
        confusion_matrix(np.array([[np.nan, 0.0]]), np.array([[True, False]]))
