"""What the ablation and the model card measure on the held-out clips of AVSynth."""

from __future__ import annotations

from pathlib import Path

from kdcmae import load_pretrained
from kdcmae.config import EncoderConfig
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.dataset import DatasetSettings
from kdcmae.evaluation import classification
from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings
from kdcmae.evaluation.localization import Localization, localize
from kdcmae.evaluation.localization import summarize as summarize_heat
from kdcmae.evaluation.retrieval import Retrieval, extract_features, retrieve
from kdcmae.predictors import CheckpointPredictor

__all__ = ["measure_accuracy", "measure_features"]


def measure_features(checkpoint: Path, clips: int) -> tuple[Retrieval, Localization]:
    """Retrieval and localisation of a pretrained model.

    Args:
        checkpoint: its file.
        clips: of the test split.

    Raises:
        KdcmaeError: the checkpoint cannot be loaded or measured.
    """
    model = load_pretrained(checkpoint).eval()
    held_out = _held_out(model.config, clips)
    found = retrieve(extract_features(CheckpointPredictor(model, checkpoint.stem), held_out))
    return found, summarize_heat(localize(model, held_out.masked(held_out)))


def measure_accuracy(predictor: CheckpointPredictor, clips: int, *, missing: classification.Missing | None) -> float:
    """The accuracy of a classifier of AVSynth's classes on the middle frame of each clip.

    Args:
        predictor: of the classifier, in evaluation mode.
        clips: of the test split.
        missing: what is withheld, if anything.
    """
    held_out = _held_out(predictor.module.config, clips)
    scores = classification.score_clips(predictor, held_out, missing=missing)
    return classification.summarize(scores, LABELS.names).accuracy


def _held_out(config: EncoderConfig, clips: int) -> EvaluationClips:
    return EvaluationClips(
        f"avsynth:{clips}", LABELS, DatasetSettings(preprocessing=config.preprocessing), LoaderSettings()
    )
