"""Linear probe: how well a linear map predicts the labels from the frozen encoder's pooled features.

Clips come as batches, mappings with ``audio`` (B, T, 128), ``image`` (B, 3, S, S), as far as the encoder sees them,
and ``target`` (B, C) multi-hot: tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.errors import DataError
from kdcmae.evaluation.classification import Classification, ScoredClips, summarize
from kdcmae.runtime.arrays import Float64

__all__ = ["LabelledFeatures", "LinearProbe", "Probe", "fit_ridge", "pooled_features", "probe"]


# Ridge penalties for standardised features, per clip.
_PENALTIES = 10.0 ** np.arange(-4.0, 2.5, 0.5)


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """(N, D) pooled features and (N, C) bool labels of the same clips."""

    features: Float64
    positives: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Scores are ``features @ weight + bias``.

    Args:
        weight: (D, C). bias: (C,).
        penalty: the ridge penalty chosen, per clip and of standardised features.
    """

    weight: Float64
    bias: Float64
    penalty: float

    def scores(self, features: Float64) -> Float64:
        """(N, D) -> (N, C)."""
        return features @ self.weight + self.bias


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Result of a probe: the held-out ``classification``, the number of training clips, and the chosen penalty."""

    train_clips: int
    penalty: float
    classification: Classification


@torch.inference_mode()
def pooled_features(encoder: KDCMAEClassifier, batches: Iterable[Mapping[str, Tensor]]) -> LabelledFeatures:
    """The inputs of the classifier's head.

    Args:
        encoder: in evaluation mode; its head is not used. For a pretraining model, see
            :func:`kdcmae.checkpoints.init_classifier`.

    Raises:
        DataError: no clips, or features that are not finite.
    """
    device = encoder.modality_a.device
    features, positives = [], []
    for batch in batches:
        inputs = {name: batch[name].to(device) for name in encoder.config.inputs}
        features.append(encoder.pooled(**inputs).cpu().double().numpy())
        positives.append((batch["target"] > 0).numpy())
    if not features:
        raise DataError("no clips to evaluate")
    joined = np.concatenate(features)
    if not np.isfinite(joined).all():
        raise DataError("the features are not finite; the checkpoint or a clip is damaged")
    return LabelledFeatures(joined, np.concatenate(positives))


def fit_ridge(data: LabelledFeatures) -> LinearProbe:
    """Ridge regression from standardised features to labels, in closed form and therefore repeatable.

    Args:
        data: at least two clips.

    Returns:
        The probe whose penalty has the smallest squared error on clips left out one at a time.

    Raises:
        DataError: fewer than two clips.

    Source: the hat-matrix identity for the left-out residual; see Hastie et al., The Elements of Statistical
    Learning, section 7.10.
    """
    clips = len(data.features)
    if clips < 2:
        raise DataError(f"a linear probe needs at least 2 training clips, got {clips}")
    mean, std = data.features.mean(axis=0), data.features.std(axis=0)
    std[std < 1e-12] = 1.0
    x = (data.features - mean) / std
    target_mean = data.positives.mean(axis=0)
    y = data.positives - target_mean
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    rotated, projected = x @ vectors, vectors.T @ (x.T @ y)

    def left_out_error(penalty: float) -> float:
        shrunk = rotated / (eigenvalues + penalty)
        leverage = 1 / clips + (shrunk * rotated).sum(axis=1)
        residual = (y - shrunk @ projected) / (1 - leverage)[:, None]
        return float(np.square(residual).mean())

    penalty = min(clips * _PENALTIES, key=left_out_error)
    weight = vectors @ (projected / (eigenvalues + penalty)[:, None]) / std[:, None]
    return LinearProbe(weight, target_mean - mean @ weight, float(penalty / clips))


def probe(train: LabelledFeatures, held_out: LabelledFeatures, labels: tuple[str, ...]) -> tuple[Probe, ScoredClips]:
    """Fit on some clips and measure on others.

    Returns:
        The result, and the scores of the held-out clips.

    Raises:
        DataError: fewer than two training clips.
    """
    fitted = fit_ridge(train)
    scored = ScoredClips(fitted.scores(held_out.features), held_out.positives)
    clips, result = len(train.features), summarize(scored, labels)
    return Probe(train_clips=clips, penalty=fitted.penalty, classification=result), scored
