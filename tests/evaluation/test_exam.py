from __future__ import annotations

import numpy as np
import pytest

from kdcmae.errors import DataError
from kdcmae.evaluation.exam import Exam

CLASSES = ("bell", "dog", "rain")
LABELS = ("dog", "bell", "rain", "dog")
REFERENCE = np.eye(3)[[1, 0, 2, 0]]  # the last clip is wrong
OTHER = np.eye(3)[[1, 1, 2, 0]]  # the second one too


def test_a_single_label_exam_is_graded_by_top_1() -> None:
    exam = Exam.of_labels(LABELS, CLASSES, reference=REFERENCE)
    assert exam.score(REFERENCE) == 0.75
    assert exam.score(OTHER) == 0.5
    low, high = exam.interval(OTHER)
    assert 0 < low < 0.5 < high < 1
    assert exam.agreement(OTHER) == 0.75
    loss = exam.loss(OTHER)
    assert (loss.metric, loss.clips, loss.reference, loss.other, loss.points) == ("top-1", 4, 75.0, 50.0, 25.0)
    assert loss.low <= 25 <= loss.high


def test_a_multi_label_exam_is_graded_by_map() -> None:
    exam = Exam(positives=np.array([[True, True], [False, True], [True, False]]), metric="mAP")
    answers = np.array([[0.9, 0.8], [0.1, 0.7], [0.5, 0.6]])
    assert exam.score(answers) == 1.0
    low, high = exam.interval(answers)
    assert low <= 1.0 <= high


def test_part_of_an_exam_has_its_own_clips_and_reference() -> None:
    part = Exam.of_labels(LABELS, CLASSES, reference=REFERENCE).part([0, 1])
    assert part.score(REFERENCE[:2]) == 1.0
    assert part.agreement(OTHER[:2]) == 0.5


def test_labels_that_are_not_classes_and_answers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="label 'cat' is not a class of the model"):
        Exam.of_labels(("cat",), CLASSES)
    with pytest.raises(DataError, match="12 of 12 scores are not finite"):
        Exam.of_labels(LABELS, CLASSES).score(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="no reference model"):
        Exam.of_labels(LABELS, CLASSES).agreement(OTHER)
