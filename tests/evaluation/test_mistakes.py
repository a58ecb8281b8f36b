"""Mistakes: the furthest off first, and pairs of classes by how often."""

from __future__ import annotations

import numpy as np

from kdcmae.evaluation.classification import ScoredClips, summarize
from kdcmae.evaluation.details import classification_details
from kdcmae.evaluation.metrics import top_accuracy
from kdcmae.evaluation.mistakes import answer, confused_pairs, confusion_cells, worst_rows

LABELS = ("cat", "dog", "rain")
SCORED = ScoredClips(
    np.array([[0.9, 0.05, 0.05], [0.3, 0.6, 0.1], [0.1, 0.0, 0.9], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]),
    np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=bool),
)


def test_the_worst_clips_are_those_whose_own_class_is_furthest_below_a_wrong_one() -> None:
    assert worst_rows(SCORED, 10) == [2, 1]  # row 3 is right with one of its labels, row 4 has none
    assert worst_rows(SCORED, 1) == [2]


def test_a_model_that_tells_nothing_apart_is_wrong() -> None:
    assert worst_rows(ScoredClips(np.full((2, 3), 1 / 3), SCORED.positives[:2]), 5) == [0, 1]


def test_an_answer_names_the_clip_s_classes_and_the_best_ones() -> None:
    found = answer(SCORED, 3, LABELS)
    assert found["labels"] == [{"label": "dog", "score": 0.5}, {"label": "rain", "score": 0.3}]
    assert [one["label"] for one in found["predicted"]] == ["dog", "rain", "cat"]


def test_pairs_are_ordered_by_clips_and_then_by_their_share() -> None:
    counts = np.array([[7, 2, 0], [2, 0, 1], [0, 0, 5]])
    pairs = [(one["label"], one["predicted"], one["clips"], round(one["share"], 3))
             for one in confused_pairs(counts, LABELS)]  # fmt: skip
    assert pairs == [("dog", "cat", 2, 0.667), ("cat", "dog", 2, 0.222), ("dog", "rain", 1, 0.333)]
    assert len(confused_pairs(counts, LABELS, most=1)) == 1
    assert confused_pairs(np.zeros((3, 3), dtype=np.int64), LABELS) == []


def test_a_confusion_matrix_is_written_without_its_zeros() -> None:
    counts = np.array([[7, 2, 0], [0, 0, 0], [0, 0, 5]])
    found = confusion_cells(counts, LABELS)
    assert found["labels"] == list(LABELS)
    assert [tuple(cell.values()) for cell in found["cells"]] == [(0, 0, 7), (0, 1, 2), (2, 2, 5)]


def test_classes_of_one_name_keep_their_own_counts() -> None:
    counts = np.array([[7, 2, 1], [3, 4, 0], [0, 0, 5]])
    found = confusion_cells(counts, ("engine", "engine", "rain"))
    again = np.zeros_like(counts)
    for cell in found["cells"]:
        again[cell["class"], cell["predicted"]] += cell["clips"]
    assert np.array_equal(again, counts)


def test_top_accuracy_counts_a_tie_as_the_last_of_its_ranks() -> None:
    scores = np.array([[0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.3, 0.3, 0.4]])
    positives = np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0]], dtype=bool)
    assert top_accuracy(scores, positives, 2) == 2 / 3
    assert np.isnan(top_accuracy(scores, positives, 3))


def test_only_a_model_for_clips_of_one_class_has_a_confusion_matrix() -> None:
    single = ScoredClips(SCORED.scores[:3], SCORED.positives[:3])
    for scored, several, expected in ((single, False, True), (single, True, False), (SCORED, False, False)):
        clips = [f"clip{row}" for row in range(len(scored.scores))]
        details = classification_details(scored, summarize(scored, LABELS), clips, several=several, most=1)
        assert ("confusion" in details) is expected
        assert [one["clip"] for one in details["examples"]] == ["clip2"]
        low, high = details["intervals"]["accuracy"]
        assert low < summarize(scored, LABELS).accuracy < high
