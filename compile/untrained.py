"""The untrained models that ``--random-weights`` compiles and ``preset:NAME`` benchmarks."""

from __future__ import annotations

from typing import Any

import torch

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.pretraining import KDCMAE

__all__ = ["untrained_autoencoder", "untrained_classifier"]

AUDIOSET_CLASSES = 527


def untrained_classifier(preset: str, **overrides: Any) -> KDCMAEClassifier:
    """A classifier with seeded random weights, in evaluation mode; the same weights every time.

    Args:
        preset: a key of :data:`~kdcmae.config.PRESETS`.
        overrides: fields of :class:`~kdcmae.config.ClassifierConfig`; as many classes as labels, or AudioSet's.
    """
    overrides.setdefault("num_classes", len(overrides.get("labels", ())) or AUDIOSET_CLASSES)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return KDCMAEClassifier.from_preset(preset, **overrides).eval()


def untrained_autoencoder(preset: str, **overrides: Any) -> KDCMAE:
    """A pretraining model, likewise.

    Args:
        preset: a key of :data:`~kdcmae.config.PRESETS`.
        overrides: fields of :class:`~kdcmae.config.PretrainingConfig`.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return KDCMAE.from_preset(preset, **overrides).eval()
