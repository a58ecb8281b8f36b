"""One exam for every model: how right its answers to labelled clips are, and how they compare with a reference model's.

Checkpoints, quantised graphs and engines are all graded here, so that an accuracy means the same in a build, in a
benchmark and in a study. Single-label models are graded by top-1 accuracy, multi-label ones by mAP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.evaluation.intervals import Interval, mean_average_precision_interval, share_interval
from kdcmae.evaluation.metrics import accuracy, mean_average_precision
from kdcmae.evaluation.paired import Loss, Metric, paired_loss

__all__ = ["Answers", "Exam"]

Answers = NDArray[np.floating[Any]]
"""(N, C) logits or scores of a model, a row per clip of the exam."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Exam:
    """Labelled clips, and a reference model's answers to them.

    Args:
        positives: (N, C) bool; which classes each clip has.
        metric: what answers are graded by.
        reference: answers of the reference model; None if there is no such model.
    """

    positives: NDArray[np.bool_]
    metric: Metric = "top-1"
    reference: Answers | None = None

    @classmethod
    def of_labels(cls, labels: Sequence[str], classes: Sequence[str], *, reference: Answers | None = None) -> Exam:
        """An exam on clips with one label each.

        Args:
            classes: of the models, in the order of their logits.
            reference: answers of the reference model.

        Raises:
            DataError: a label that is not a class.
        """
        if unknown := sorted(set(labels) - set(classes)):
            raise DataError(f"label {unknown[0]!r} is not a class of the model; use clips with the model's own labels")
        positives = np.zeros((len(labels), len(classes)), dtype=bool)
        positives[np.arange(len(labels)), [classes.index(label) for label in labels]] = True
        return cls(positives=positives, reference=reference)

    def part(self, rows: Sequence[int]) -> Exam:
        """The exam on some of its clips, by their row numbers."""
        reference = None if self.reference is None else self.reference[rows]
        return dataclasses.replace(self, positives=self.positives[rows], reference=reference)

    def score(self, answers: Answers) -> float:
        """Top-1 accuracy or mAP, in [0, 1]; NaN if no clip has a label.

        Raises:
            DataError: another shape than the exam's, or answers that are not finite.
        """
        return (accuracy if self.metric == "top-1" else mean_average_precision)(answers, self.positives)

    def interval(self, answers: Answers) -> Interval:
        """The 95 % interval of :meth:`score`."""
        if self.metric == "mAP":
            return mean_average_precision_interval(answers, self.positives)
        return share_interval(self.score(answers), max(1, int(self.positives.any(axis=1).sum())))

    def loss(self, answers: Answers) -> Loss:
        """What the answers lose against the reference model's on the same clips, with the interval of the difference.

        Raises:
            DataError: a clip without a label, another shape, or answers that are not finite.
        """
        return paired_loss(self.metric, self._reference, answers, self.positives)

    def agreement(self, answers: Answers) -> float:
        """Share of clips for which the answers and the reference model's have the same best class."""
        return float((answers.argmax(axis=1) == self._reference.argmax(axis=1)).mean())

    @property
    def _reference(self) -> Answers:
        if self.reference is None:
            raise ValueError("the exam has no reference model")
        return self.reference
