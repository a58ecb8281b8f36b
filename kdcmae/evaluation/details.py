"""Details of a report: intervals, errors and examples, as plain values for JSON and pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcmae.evaluation.classification import Classification, ScoredClips
from kdcmae.evaluation.intervals import mean_average_precision_interval, share_interval
from kdcmae.evaluation.localization import Localization
from kdcmae.evaluation.metrics import confusion_matrix
from kdcmae.evaluation.mistakes import answer, confused_pairs, confusion_cells, worst_rows
from kdcmae.evaluation.retrieval import (
    Direction,
    Features,
    Ranks,
    best_answers,
    rank_histogram,
    spread_queries,
    summarize,
)

__all__ = ["classification_details", "localization_details", "retrieval_details"]

_ANSWERS = 5  # of a retrieval example

# With more classes the names on a page cannot be read, and the matrix is larger than the rest of the report.
_MOST_IN_MATRIX = 1000


def classification_details(
    scored: ScoredClips, result: Classification, clips: Sequence[str], *, several: bool, most: int
) -> dict[str, Any]:
    """Intervals, confusion and the worst clips of a classifier.

    Args:
        scored: the clips.
        result: the metrics.
        clips: id of each row.
        several: the model is multi-label, for which a confusion matrix says little.
        most: maximum number of examples.
    """
    labels = [entry.label for entry in result.classes]
    counts = confusion_matrix(scored.scores, scored.positives)
    labelled = max(1, int(scored.positives.any(axis=1).sum()))
    single = not several and bool((scored.positives.sum(axis=1) <= 1).all()) and len(labels) <= _MOST_IN_MATRIX
    return {
        "intervals": {
            "accuracy": share_interval(result.accuracy, labelled),
            "top_5_accuracy": share_interval(result.top_5_accuracy, labelled),
            "mean_average_precision": mean_average_precision_interval(scored.scores, scored.positives),
        },
        **({"confusion": confusion_cells(counts, labels)} if single else {}),
        "confused": confused_pairs(counts, labels),
        "examples": [{"clip": clips[row], **answer(scored, row, labels)} for row in worst_rows(scored, most)],
    }


def retrieval_details(features: Features, ranks: Ranks, clips: Sequence[str], *, most: int) -> dict[str, Any]:
    """Intervals of the recalls, ranks of the right clips, and example queries.

    Args:
        features: of the clips.
        ranks: of their partners.
        clips: id of each row.
        most: maximum number of examples, half of them in each direction.
    """
    result = summarize(ranks)
    examples = []
    for direction, standing in ranks.items():
        queries = spread_queries(standing, most // 2)
        answers = best_answers(features, direction, queries, _ANSWERS)
        examples += [
            {
                "direction": direction,
                "clip": clips[query],
                "rank": int(standing[query]),
                "found": [clips[number] for number in numbers],
            }
            for query, numbers in zip(queries, answers, strict=True)
        ]
    return {
        "intervals": {name: _recall_intervals(getattr(result, name), result.clips) for name in ranks},
        "ranks": {name: rank_histogram(standing) for name, standing in ranks.items()},
        "examples": examples,
    }


def _recall_intervals(direction: Direction, clips: int) -> dict[str, tuple[float, float]]:
    names = ("recall_at_1", "recall_at_5", "recall_at_10")
    return {name: share_interval(getattr(direction, name), clips) for name in names}


def localization_details(result: Localization | None, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Intervals of the shares of clips, and the drawn clips.

    Args:
        result: the metrics, or None.
        examples: facts about the drawn clips.
    """
    intervals = {}
    if result is not None:
        intervals = {name: share_interval(getattr(result, name), result.clips) for name in ("ciou", "pointing")}
    return {"intervals": intervals, "examples": list(examples)}
