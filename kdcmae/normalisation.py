"""Statistics that normalise a model's inputs: those that a checkpoint states, and assumptions for the others.

They are fields of the model's configuration, so checkpoints of our own hold them. Published CAV-MAE and KDC-MAE files
hold only tensors: the assumed statistics are those of the published code, and the assumed sound is the left channel,
unless the user gives others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kdcmae.config import EncoderConfig

__all__ = ["PUBLISHED", "STATISTICS", "assumed_statistics", "described", "differing"]

logger = logging.getLogger(__name__)

STATISTICS: Mapping[str, tuple[str, ...]] = {
    "audio": ("fbank_mean", "fbank_std", "mono"),
    "image": ("image_mean", "image_std"),
}
"""Fields of a configuration that describe each input: its statistics, and its channels."""

PUBLISHED: Mapping[str, Any] = {"mono": "left"}
"""Differences of the published models from the defaults: their extraction takes the left channel."""

_PUBLISHED_FOR = {"audio": "AudioSet and VGGSound", "image": "ImageNet"}


def assumed_statistics(
    config: EncoderConfig,
    inputs: Iterable[str],
    stored: Mapping[str, Any] | None,
    overrides: Collection[str],
    path: object,
) -> str:
    """The statistics of a loaded model that neither its file nor the user states; logs a warning about them.

    Args:
        config: of the model.
        inputs: of the model: ``audio``, ``image``, or both.
        stored: the configuration that the file holds; None if it holds none.
        overrides: names of the fields that the user gave.
        path: of the file, for the warning.

    Returns:
        Such as ``fbank_mean=-5.081, fbank_std=4.4849, mono=left (published for AudioSet and VGGSound)``; empty if all
            are stated.
    """
    if stored is not None:
        _warn_of_others(stored, config, path)
        return ""
    parts = []
    for name in inputs:
        if left := [field for field in STATISTICS[name] if field not in overrides]:
            parts.append(f"{described(config, left)} (published for {_PUBLISHED_FOR[name]})")
    assumed = ", ".join(parts)
    if assumed:
        logger.warning(
            "%s does not say how its inputs were made; assuming %s; give others under these names, such as "
            "--fbank-mean and --mono or, in training, --set fbank_mean=NUMBER", path, assumed
        )  # fmt: skip
    return assumed


def described(config: EncoderConfig, names: Iterable[str]) -> str:
    """Some statistics of a model, such as ``fbank_mean=-5.081, fbank_std=4.4849``."""
    return ", ".join(f"{name}={getattr(config, name)}" for name in names)


def differing(before: EncoderConfig, after: EncoderConfig) -> list[str]:
    """The names of the statistics in which two models differ."""
    every = [name for names in STATISTICS.values() for name in names]
    return [name for name in every if getattr(before, name) != getattr(after, name)]


def _warn_of_others(stored: Mapping[str, Any], config: EncoderConfig, path: object) -> None:
    """Warn if the user replaced statistics that a file states; files of earlier versions have the defaults."""
    every = [name for names in STATISTICS.values() for name in names]
    trained = EncoderConfig(**{name: stored[name] for name in every if name in stored})
    if names := differing(trained, config):
        logger.warning(
            "%s was trained with %s; computing with %s", path, described(trained, names), described(config, names)
        )
