"""Errors of a classifier: its worst clips and its most confused classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.evaluation.classification import ScoredClips

__all__ = ["answer", "confused_pairs", "confusion_cells", "worst_rows"]

_BEST = 3  # best classes shown for a clip


def worst_rows(scored: ScoredClips, most: int) -> list[int]:
    """Rows of labelled clips whose best class is wrong, the largest error first.

    Args:
        most: maximum number of rows.

    Returns:
        Ordered by how much the best wrong class scores above the best of the clip's own.
    """
    scores, positives = scored.scores, scored.positives
    own = np.where(positives, scores, -np.inf).max(axis=1)
    wrong = np.where(positives, -np.inf, scores).max(axis=1)
    rows = np.flatnonzero(positives.any(axis=1) & (wrong >= own))
    return [int(row) for row in rows[np.argsort(own[rows] - wrong[rows], kind="stable")][:most]]


def answer(scored: ScoredClips, row: int, labels: Sequence[str]) -> dict[str, Any]:
    """One clip's labels and the best classes for it, with the score of each."""
    scores = scored.scores[row]
    best = np.argsort(-scores, kind="stable")[:_BEST]
    own = np.flatnonzero(scored.positives[row])

    def scored_labels(classes: NDArray[np.intp]) -> list[dict[str, Any]]:
        return [{"label": labels[index], "score": float(scores[index])} for index in classes.tolist()]

    return {"labels": scored_labels(own), "predicted": scored_labels(best)}


def confusion_cells(counts: NDArray[np.int64], labels: Sequence[str]) -> dict[str, Any]:
    """A confusion matrix without its zeros. Cells are by class number: two classes may share a name.

    Args:
        counts: (C, C), as :func:`~kdcmae.evaluation.metrics.confusion_matrix` gives them.

    Returns:
        The ``labels`` and the ``cells``: ``class`` and ``predicted``, both numbers of labels from 0, and ``clips``.
    """
    cells = [
        {"class": own, "predicted": predicted, "clips": int(counts[own, predicted])}
        for own, predicted in np.argwhere(counts).tolist()
    ]
    return {"labels": list(labels), "cells": cells}


def confused_pairs(counts: NDArray[np.int64], labels: Sequence[str], most: int = 20) -> list[dict[str, Any]]:
    """The most frequent errors in descending order: class, predicted class, clips, and their share of the class.

    Args:
        counts: (C, C), as :func:`~kdcmae.evaluation.metrics.confusion_matrix` gives them.
    """
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    shares = errors / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    order = np.lexsort((-shares.ravel(), -errors.ravel()))[:most]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [
        {
            "label": labels[own],
            "predicted": labels[taken_for],
            "clips": int(errors[own, taken_for]),
            "share": float(shares[own, taken_for]),
        }
        for own, taken_for in pairs
        if errors[own, taken_for]
    ]
