"""Checks of class names and of clips against a model, before any library is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcmae.compile.settings import QuantizationSettings
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.manifest import LabelMap
from kdcmae.errors import ConfigError
from kdcmae.files.text import name_of
from kdcmae.weights.header import stored_labels

__all__ = ["named_classes", "require_clips"]


def named_classes(checkpoint: Path | None, labels: Path | None) -> LabelMap | None:
    """The classes of a trained model.

    Args:
        checkpoint: its file; None for the model that is shipped here.
        labels: the file of class names, if one is given.

    Returns:
        None if they have no names.

    Raises:
        DataError: a file of labels that is none.
        ConfigError: it names the checkpoint's own classes in another order.
    """
    stored = LABELS.names if checkpoint is None else stored_labels(checkpoint)
    if labels is None:
        return LABELS if checkpoint is None else LabelMap(stored, stored) if stored else None
    named = LabelMap.read(labels)
    if named.names != stored and sorted(named.names) == sorted(stored):
        place = next(place for place, name in enumerate(stored) if named.names[place] != name)
        raise ConfigError(
            f"--labels {labels} names the model's own classes in another order: its class {place} is "
            f"{stored[place]!r}, and the file says {named.names[place]!r}; leave --labels out"
        )
    return named


def require_clips(model: Mapping[str, Any], clips: QuantizationSettings, *, measured: bool) -> str:
    """Refuse clips that cannot do what they are for, for the model that the options choose.

    Args:
        model: the options that choose it.
        clips: to calibrate on and to measure on.

    Returns:
        What to say of the clips that it is calibrated on; empty where there is nothing to say.

    Raises:
        DataError: clips that cannot be listed, or, where accuracy is measured, with labels that the model lacks.
        ConfigError: labels in another order than the model's.
    """
    from kdcmae.compile.quantize.listed import EVALUATED, calibration_note, list_data, require_labels

    if model["preset"] is not None:  # an untrained model labels the clips itself
        return ""
    checkpoint: Path | None = model["checkpoint"]
    name = "the model shipped here" if checkpoint is None else name_of(checkpoint)
    classes = named_classes(checkpoint, model["labels"]) if model["task"] == "classify" else None
    list_data(clips.calibration, split="train", most=1)
    if measured:
        require_labels(list_data(clips.evaluation, split="test", most=EVALUATED), classes, model=name)
    return (
        "" if checkpoint is None else calibration_note(clips.calibration, classes.names if classes else (), model=name)
    )
