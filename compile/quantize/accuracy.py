"""What an engine or a quantised graph costs on labelled clips that it did not see.

The clips are two halves, told apart by their ids (:func:`~kdcmae.compile.quantize.listed.choosing_half`). One chooses:
how many layers stay in floating point, or which engine of a search wins. The other reports what was chosen, because a
loss that was the smallest of several on the clips that chose is smaller there than on any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize.calibration import Clips, prepare_clips
from kdcmae.compile.quantize.listed import EVALUATED, choosing_half, list_data, require_labels
from kdcmae.compile.stages import Run
from kdcmae.errors import ConfigError, DataError, GateError
from kdcmae.evaluation.exam import Exam
from kdcmae.evaluation.paired import Loss, metric_of
from kdcmae.runtime.manifest import BatchRange

__all__ = ["Accuracy", "Evaluation"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What was measured on one half of the clips.

    Args:
        source: where the clips came from.
        loss: what the quantised graph, or another engine, loses against the float32 model.
        agreement: per cent of the clips that both give the same first class.
        others: clips of the other half.
        most: clips of ``--evaluation`` that are used in both halves, however many it has; None for all.
        broken: clips that could not be used, and why.
    """

    source: str
    loss: Loss
    agreement: float
    others: int
    most: int | None = None
    broken: Mapping[str, str] = field(default_factory=dict)

    def problem(self, limit: float) -> str:
        """Why this does not show that at most ``limit`` percentage points are lost; empty where it does."""
        loss = self.loss
        if loss.high <= limit:
            return ""
        problem = f"{loss.metric} drops by {loss} on {loss.clips} clips of {self.source}, allowed {limit:g}"
        if loss.points > limit:
            return problem
        needed = loss.clips_needed(limit)
        if needed is None:
            return f"{problem}; no number of clips decides on a loss that is the limit itself: raise --max-drop"
        advice = f"{problem}; too few clips to decide: about {2 * needed} in --evaluation would"
        if self.most is None or 2 * needed <= self.most:
            return advice
        return f"{advice}, of which at most {self.most} are used: raise --max-drop"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in per cent and percentage points."""
        loss = self.loss
        return {
            "metric": loss.metric,
            "source": self.source,
            "clips": loss.clips,
            "clips_that_chose": self.others,
            "reference": loss.reference,
            "quantized": loss.other,
            "drop": loss.points,
            "interval": [loss.low, loss.high],
            "agreement": self.agreement,
            **({"broken": dict(self.broken)} if self.broken else {}),
        }


class Evaluation:
    """Answers the same clips with the float32 model, once, and with what is made of it.

    Args:
        model: a classifier with its weights; what an untrained one puts first counts as right: its labels mean nothing.
        clips: labelled with its classes, at least two.
        most: clips that are used, however many there are; None for all.

    Raises:
        ConfigError: a model that does not classify.
        DataError: labels that the model does not have, or a single clip.
    """

    def __init__(self, model: EngineModel, clips: Clips, *, most: int | None = None) -> None:
        _require_classes(model)
        chooses = choosing_half((*clips.ids, *clips.broken))
        self._choosing = [place for place, clip in enumerate(clips.ids) if clip in chooses]
        self._reporting = [place for place, clip in enumerate(clips.ids) if clip not in chooses]
        if not self._choosing or not self._reporting:
            raise DataError(f"{clips.source}: accuracy needs two clips at least, one to choose and one to report")
        self._clips, self._most = clips, most
        self._output = model.outputs[0].name
        self._source = clips.source
        reference = self._logits(lambda feed: models.reference(model, feed), clips)
        if model.facts["random_weights"]:
            self._source = f"{clips.source}, labelled by the model itself"
            self._exam = Exam(positives=reference == reference.max(axis=1, keepdims=True), reference=reference)
        else:
            targets = clips.targets(model.classes)
            self._exam = Exam(positives=targets, metric=metric_of(model.scores), reference=reference)

    @classmethod
    def on(cls, model: EngineModel, data: str | Path, batch: BatchRange) -> Evaluation:
        """On the clips of a manifest, of shards, or of AVSynth.

        Args:
            model: with its weights.
            data: as of :func:`~kdcmae.compile.quantize.listed.list_data`.
            batch: sizes that a graph takes.

        Raises:
            ConfigError: a model that does not classify, or no such data.
            DataError: labels that the model does not have, before any clip is read; or clips that cannot be.
        """
        _require_classes(model)
        clips = list_data(data, split="test", most=EVALUATED)
        if not model.facts["random_weights"]:
            require_labels(clips, model.classes, model=model.facts["name"])
        return cls(model, prepare_clips(model, clips, batch), most=None if clips.made else EVALUATED)

    def choose(self, run: Run) -> Accuracy:
        """Measure a candidate on the half of the clips that choices are made by.

        Args:
            run: from inputs to outputs by name, such as :meth:`kdcmae.compile.targets.Target.run_quantized` gives.

        Raises:
            GateError: it gives outputs that are not finite.
        """
        return self._measure(run, self._choosing)

    def report(self, run: Run) -> Accuracy:
        """Measure what was chosen on the other half. Arguments and errors as of :meth:`choose`."""
        return self._measure(run, self._reporting)

    def _measure(self, run: Run, half: Sequence[int]) -> Accuracy:
        answers = self._logits(run, self._clips.part(half))
        if not np.isfinite(answers).all():
            raise GateError(f"accuracy: {self._output} is not finite for {_rows_lost(answers)} of {len(answers)} clips")
        exam = self._exam.part(half)
        return Accuracy(
            source=self._source,
            loss=exam.loss(answers),
            agreement=100 * exam.agreement(answers),
            others=self._clips.count - len(half),
            most=self._most,
            broken=self._clips.broken,
        )

    def _logits(self, run: Run, clips: Clips) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(run(batch)[self._output]) for batch in clips.batches])[: clips.count]


def _require_classes(model: EngineModel) -> None:
    if not model.labels:
        raise ConfigError("--max-drop is about the accuracy of a classifier; this model has no classes")


def _rows_lost(logits: NDArray[np.float32]) -> int:
    return int(np.count_nonzero(~np.isfinite(logits).all(axis=1)))
