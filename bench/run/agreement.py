"""Accuracy of subjects on labelled clips, and agreement of every two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.report.records import Accuracy, Agreement
from kdcmae.bench.run.contender import Contender
from kdcmae.bench.run.sources import Source
from kdcmae.evaluation.exam import Exam
from kdcmae.runtime.manifest import digest

__all__ = ["AnswerCache", "accuracies", "agreement", "knows", "top1_accuracy"]

Answers = NDArray[np.float32]


class AnswerCache:
    """Answers to a set of clips on disk, so that they are computed once per engine.

    Args:
        folder: where they are stored.
        data: the clips, as :func:`kdcmae.bench.run.clips.write_clips` wrote them.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data

    def answers(self, contender: Contender) -> Answers | None:
        """Answers of a subject, (clips, classes); None where it cannot give any."""
        path = self._folder / f"{self._key(contender.entry.source)}.npy"
        if path.is_file():
            stored: Answers = np.load(path)
            return stored
        answers = contender.answers(self._data)
        if answers is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            np.save(path, answers)
        return answers

    def _key(self, source: str) -> str:
        """Digest of the source, of the weights behind it and of the clips."""
        facts = hashlib.sha256(f"{source}\n{digest(self._data)}".encode())
        path = Path(Source.parse(source).path)
        path = path / "manifest.json" if path.is_dir() else path
        if path.is_file():
            facts.update(digest(path).encode())
        return facts.hexdigest()[:32]


def knows(contender: Contender, labels: Sequence[str]) -> bool:
    """Whether a subject was trained on these labels."""
    return not contender.facts.random_weights and set(labels) <= set(contender.facts.labels)


def accuracies(
    contenders: Sequence[Contender], answers: Mapping[str, Answers], labels: Sequence[str], *, data: str
) -> dict[str, Accuracy]:
    """The accuracy of every subject that knows the labels, by subject.

    Args:
        contenders: all subjects.
        answers: (clips, classes) by subject. A tool that only times an engine has none and gets that engine's.
        labels: of the clips.
        data: which clips these are.
    """
    accuracy = {}
    for contender in contenders:
        facts, entry = contender.facts, contender.entry
        logits = answers.get((entry.subject if facts.shows_outputs else entry.engine) or "")
        if logits is not None and knows(contender, labels):
            accuracy[entry.subject] = top1_accuracy(logits, labels, facts.labels, data=data)
    return accuracy


def top1_accuracy(answers: Answers, labels: Sequence[str], classes: Sequence[str], *, data: str) -> Accuracy:
    """Share of clips whose best class is their label, with Wilson's 95 % interval.

    Args:
        answers: (clips, classes).
        labels: of the clips.
        classes: of the model.
        data: which clips these are.
    """
    exam = Exam.of_labels(labels, classes)
    low, high = exam.interval(answers)
    return Accuracy(top1=exam.score(answers), low=low, high=high, clips=len(labels), data=data)


def agreement(model: str, answers: Mapping[str, Answers], *, data: str) -> Agreement:
    """Every two subjects that gave answers, (clips, classes) each, to the same clips."""
    names, values = tuple(answers), [logits.astype(np.float64) for logits in answers.values()]
    return Agreement(
        model=model,
        data=data,
        clips=len(values[0]),
        subjects=names,
        cosine=tuple(tuple(_cosine(first, second) for second in values) for first in values),
        flips=tuple(tuple(int((first.argmax(1) != second.argmax(1)).sum()) for second in values) for first in values),
    )


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The smallest over the clips; 0 where an answer is all zeros."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(axis=1)
    return float(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).min())
