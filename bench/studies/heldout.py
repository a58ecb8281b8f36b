"""The held-out clips of AVSynth that the ablation, the token study and the model card measure on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.dataset import DatasetSettings
from kdcmae.evaluation.classification import Missing, ScoredClips, score_clips
from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings
from kdcmae.evaluation.localization import Localization, localize
from kdcmae.evaluation.localization import summarize as summarize_heat
from kdcmae.evaluation.metrics import accuracy
from kdcmae.evaluation.retrieval import Retrieval, extract_features, retrieve
from kdcmae.predictors import Predictor, open_model
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["HeldOut", "measure_features"]


class HeldOut:
    """Middle frame and sound of clips of AVSynth's test split, prepared once for all models that take them alike."""

    def __init__(self, preprocessing: Preprocessing, clips: int) -> None:
        self.clips = EvaluationClips(
            f"avsynth:{clips}", LABELS, DatasetSettings(preprocessing=preprocessing), LoaderSettings()
        )

    @cached_property
    def _batches(self) -> list[Mapping[str, Any]]:
        return list(self.clips)

    def scores(self, predictor: Predictor, *, missing: Missing | None = None) -> ScoredClips:
        """Scores of a classifier of AVSynth's classes, and the labels.

        Args:
            predictor: of the classifier.
            missing: the modality that is withheld, if any.
        """
        return score_clips(predictor, self._batches, missing=missing)

    def accuracies(self, predictor: Predictor) -> dict[Missing | None, float]:
        """Share of the clips whose best class is their label, by the modality that is withheld."""
        withheld: tuple[Missing | None, ...] = (None, "audio", "video")
        scored = {missing: self.scores(predictor, missing=missing) for missing in withheld}
        return {missing: accuracy(answers.scores, answers.positives) for missing, answers in scored.items()}


def measure_features(checkpoint: Path, clips: int) -> tuple[Retrieval, Localization]:
    """Retrieval and localisation of a pretrained model, on clips of AVSynth's test split.

    Raises:
        KdcmaeError: the checkpoint cannot be loaded or measured.
    """
    model = open_model(checkpoint, task="features", engine=False)
    held_out = HeldOut(model.facts.preprocessing, clips).clips
    retrieval = retrieve(extract_features(model, held_out))
    return retrieval, summarize_heat(localize(model.module, held_out.masked(held_out)))
