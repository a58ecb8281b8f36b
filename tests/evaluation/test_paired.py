from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.evaluation.metrics import mean_average_precision
from kdcmae.evaluation.paired import Loss, Metric, mean_interval, metric_of, paired_loss, unseen_loss


def multi_label(
    clips: int, classes: int, *, seed: int, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of a model, of a noisy copy of it, and the labels of the clips: each has one or more."""
    rng = np.random.default_rng(seed)
    positives = rng.random((clips, classes)) < 1.5 / classes
    positives[np.arange(clips), rng.integers(classes, size=clips)] = True
    reference = 1.5 * positives + rng.normal(size=positives.shape)
    return reference, reference + noise * rng.normal(size=positives.shape), positives


def single_label(
    clips: int, *, seed: int, lost: float, won: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of two models that are both right on most clips; of the others one is right alone."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, size=clips, p=[lost, won, 0.1, 0.9 - lost - won])
    right = np.stack([(kind == 0) | (kind == 3), (kind == 1) | (kind == 3)])
    positives = np.eye(5, dtype=bool)[rng.integers(5, size=clips)]
    reference, other = (np.where(found[:, None], positives, np.roll(positives, 1, axis=1)) + 0.0 for found in right)
    return reference, other, positives


@pytest.mark.parametrize("metric", ["top-1", "mAP"])
@pytest.mark.parametrize(("clips", "at_most"), [(5, 45.07), (100, 2.951), (500, 0.5974)])
def test_clips_without_a_changed_answer_leave_room_for_one_in_a_third_of_them(
    clips: int, at_most: float, metric: Metric
) -> None:
    scores, positives = np.eye(4)[np.arange(clips) % 4], np.eye(4, dtype=bool)[np.arange(clips) % 3]
    loss = paired_loss(metric, scores, scores.copy(), positives)
    assert (loss.points, loss.low, loss.clips) == (0, 0, clips)
    assert loss.high == pytest.approx(at_most, rel=1e-3)
    assert loss.high <= 300 / clips
    assert (1 - loss.high / 100) ** clips == pytest.approx(0.05)  # so many lose nothing that seldom
    assert loss.clips_needed(0.5) == 598
    assert loss.clips_needed(0.0) is None


def test_answers_that_are_won_do_not_hide_those_that_may_be_lost() -> None:
    positives = np.eye(4, dtype=bool)[np.zeros(20, dtype=int)]
    other = positives + 0.0
    reference = other.copy()
    reference[0] = np.eye(4)[1]
    loss = paired_loss("top-1", reference, other, positives)
    assert loss.points == -5
    assert loss.high == unseen_loss(20)


@pytest.mark.parametrize("metric", ["top-1", "mAP"])
def test_equal_inputs_give_equal_intervals(metric: str) -> None:
    given = multi_label(60, 5, seed=1, noise=1)
    first, again = (paired_loss(metric, *given) for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    assert first.low < first.points < first.high


def test_the_interval_of_a_mean_keeps_the_pairs() -> None:
    rng = np.random.default_rng(0)
    lost = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.93, 0.05], size=600)
    low, high = mean_interval(lost)
    assert low < lost.mean() < high
    # The bootstrap's interval is that of the normal distribution, to the resolution of a clip.
    half = 1.96 * lost.std() / np.sqrt(len(lost))
    np.testing.assert_allclose([low, high], [lost.mean() - half, lost.mean() + half], atol=2 / 600)


def test_nineteen_in_twenty_intervals_hold_what_is_lost_on_average() -> None:
    found = [paired_loss("top-1", *single_label(400, seed=seed, lost=0.05, won=0.03)) for seed in range(200)]
    assert np.mean([loss.low <= 2.0 <= loss.high for loss in found]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([loss.high < 2.0 for loss in found]) < 0.05


def test_intervals_of_map_hold_what_is_lost_on_average() -> None:
    many = multi_label(20_000, 4, seed=0, noise=0.7)
    expected = 100 * (mean_average_precision(many[0], many[2]) - mean_average_precision(many[1], many[2]))
    found = [paired_loss("mAP", *multi_label(100, 4, seed=seed, noise=0.7)) for seed in range(1, 41)]
    assert np.mean([loss.low <= expected <= loss.high for loss in found]) >= 0.9


@pytest.mark.parametrize("metric", ["top-1", "mAP"])
def test_pairs_are_narrower_than_two_intervals(metric: str) -> None:
    reference, other, positives = multi_label(200, 5, seed=2, noise=0.2)
    paired = paired_loss(metric, reference, other, positives)  # type: ignore[arg-type]
    # Against a model that knows nothing, the interval is that of the other model alone.
    alone = [paired_loss(metric, scores, np.ones_like(scores), positives) for scores in (reference, other)]  # type: ignore[arg-type]
    unpaired = np.hypot(*(loss.high - loss.low for loss in alone))
    assert paired.high - paired.low < 0.6 * unpaired


def test_more_clips_are_asked_for_by_the_width_that_is_left() -> None:
    loss = Loss(metric="top-1", clips=100, reference=90.0, other=89.5, low=-1.0, high=2.5)
    assert loss.clips_needed(1.5) == 400
    assert loss.clips_needed(2.5) == 100
    assert loss.clips_needed(0.5) is None


def test_the_metric_is_the_one_that_such_models_are_published_with() -> None:
    assert (metric_of("softmax"), metric_of("sigmoid")) == ("top-1", "mAP")


def test_clips_without_labels_are_refused() -> None:
    scores, _, positives = multi_label(10, 4, seed=0, noise=0)
    positives[3] = False
    with pytest.raises(DataError, match="1 of 10 clips have no label"):
        paired_loss("mAP", scores, scores, positives)
    with pytest.raises(DataError, match="not finite"):
        paired_loss("top-1", scores, np.full_like(scores, np.nan), scores == scores.max(axis=1, keepdims=True))
