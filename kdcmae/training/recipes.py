"""Named presets of a whole run. The table reproduces the published settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kdcmae.errors import ConfigError
from kdcmae.training.settings import DistillationSettings, FinetuningSettings, TrainingSettings

__all__ = ["RECIPES", "SCHEDULE", "Recipe", "Stage", "find", "recipe", "rescaled"]

Stage = Literal["pretrain", "finetune", "distill"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that belong together.

    Args:
        stage: what it trains.
        about: one line for people.
        training: of the loop.
        preset, sizes: of the model where no checkpoint gives them; ``sizes`` differ from the preset's.
        model: further fields of the model's configuration.
        augmentation: fields of :class:`~kdcmae.data.augment.Augmentation` that differ from its defaults.
    """

    stage: Stage
    about: str
    training: TrainingSettings
    preset: str = "base"
    sizes: Mapping[str, int] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)


def _pretraining(learning_rate: float, batch_size: int) -> TrainingSettings:
    return TrainingSettings(
        learning_rate=learning_rate, batch_size=batch_size, epochs=25, decay_start_epoch=10, decay_every_epochs=5
    )


# Two seconds of sound fill 198 spectrogram frames, and a picture has 112 by 112 pixels. Half of the tiny preset's depth
# trains sooner.
_AVSYNTH_SIZES = {"audio_length": 208, "image_size": 112, "specific_depth": 2}
_FINETUNING_AUGMENTATION = {"frequency_mask": 48, "time_mask": 192, "mixup_rate": 0.5}

# Source: the CAV-MAE and KDC-MAE training scripts.
RECIPES: Mapping[str, Recipe] = {
    "audioset-pretrain-base": Recipe(stage="pretrain", about="AudioSet-2M, batch 48", training=_pretraining(5e-5, 48)),
    "audioset-pretrain-plus": Recipe(
        stage="pretrain", about="AudioSet-2M, batch 120", training=_pretraining(1e-4, 120)
    ),
    "audioset-pretrain-plusplus": Recipe(
        stage="pretrain", about="AudioSet-2M, batch 256", training=_pretraining(2e-4, 256)
    ),
    "vggsound-pretrain": Recipe(
        stage="pretrain", about="VGGSound, from an ImageNet MAE", training=_pretraining(1e-4, 120)
    ),
    "audioset20k-finetune": Recipe(
        stage="finetune",
        about="AudioSet-20K, 527 labels, several per clip",
        training=FinetuningSettings(
            learning_rate=5e-5,
            batch_size=36,
            epochs=15,
            decay_start_epoch=5,
            decay_every_epochs=1,
            head_learning_rate_factor=100.0,
            average_from_epoch=3,
        ),
        model={"multi_label": True},
        augmentation=_FINETUNING_AUGMENTATION,
    ),
    "audioset2m-finetune": Recipe(
        stage="finetune",
        about="AudioSet-2M, 527 labels, several per clip",
        training=FinetuningSettings(
            learning_rate=1e-5,
            batch_size=48,
            epochs=10,
            decay_start_epoch=2,
            decay_every_epochs=1,
            head_learning_rate_factor=50.0,
            average_from_epoch=1,
            balanced=True,
        ),
        model={"multi_label": True},
        augmentation=_FINETUNING_AUGMENTATION,
    ),
    "vggsound-finetune": Recipe(
        stage="finetune",
        about="VGGSound, 309 labels, one per clip",
        training=FinetuningSettings(
            learning_rate=1e-4,
            batch_size=48,
            epochs=10,
            decay_start_epoch=2,
            decay_every_epochs=1,
            head_learning_rate_factor=10.0,
            average_from_epoch=3,
            balanced=True,
        ),
        augmentation=_FINETUNING_AUGMENTATION,
    ),
    # The published weights are for a large model that starts from an ImageNet MAE. A tiny one that starts from nothing
    # and has a few hundred steps needs others: at the published contrastive weight its two encoders never find each
    # other, and at their published proportion the gradients of reconstruction and distillation vanish beside the
    # contrastive one's: flat patches are easy. These weights make the three gradients comparable. Clips are made once
    # and kept in memory, which workers would not share.
    "avsynth-pretrain": Recipe(
        stage="pretrain",
        about="AVSynth, the tiny model; loss weights, temperature and targets are its own, not the published ones",
        training=TrainingSettings(
            learning_rate=1e-3,
            batch_size=32,
            epochs=16,
            decay_start_epoch=11,
            decay_every_epochs=1,
            warmup_steps=30,
            clip_grad_norm=5.0,
            workers=0,
        ),
        preset="tiny",
        sizes={**_AVSYNTH_SIZES, "decoder_depth": 1},
        model={
            "mask_ratio": 0.5,  # at 0.75 a model this small learns too little from so few clips
            "norm_pix": False,
            "reconstruction_weight": 10.0,
            "contrastive_weight": 1.0,
            "distillation_weight": 1000.0,
            "bidirectional": True,
            "temperature": 0.07,
        },
    ),
    "avsynth-finetune": Recipe(
        stage="finetune",
        about="AVSynth, the tiny model",
        training=FinetuningSettings(
            learning_rate=1e-3,
            batch_size=16,
            epochs=12,
            decay_start_epoch=8,
            decay_every_epochs=1,
            warmup_steps=50,
            clip_grad_norm=5.0,
            average_from_epoch=11,
            workers=0,
        ),
        preset="tiny",
        sizes=_AVSYNTH_SIZES,
    ),
    # A student starts from nothing, so that it learns faster and longer than a finetuned model does. The teacher
    # answers for the very clips that the student sees, mixed and masked as they are.
    "vggsound-distill": Recipe(
        stage="distill",
        about="a student of the edge preset, for clips of any data set",
        training=DistillationSettings(
            learning_rate=5e-4,
            batch_size=48,
            epochs=30,
            decay_start_epoch=15,
            decay_every_epochs=3,
            warmup_steps=500,
            clip_grad_norm=5.0,
            average_from_epoch=28,
        ),
        preset="edge",
        augmentation=_FINETUNING_AUGMENTATION,
    ),
    "avsynth-distill": Recipe(
        stage="distill",
        about="AVSynth, a student with a sixth of the shipped model's weights",
        training=DistillationSettings(
            learning_rate=2e-3,
            batch_size=16,
            epochs=12,
            decay_start_epoch=8,
            decay_every_epochs=1,
            warmup_steps=50,
            clip_grad_norm=5.0,
            average_from_epoch=11,
            workers=0,
        ),
        preset="tiny",
        sizes={"embed_dim": 64, "specific_depth": 1},
    ),
}


def recipe(name: str, stage: Stage) -> Recipe:
    """Look a recipe up.

    Raises:
        ConfigError: no such recipe for this stage; the message names the nearest.
    """
    return _found(name, {other: entry for other, entry in RECIPES.items() if entry.stage == stage}, f"{stage} ")


def find(name: str) -> Recipe:
    """Look a recipe of any stage up; raises as :func:`recipe` does."""
    return _found(name, RECIPES, "")


def _found(name: str, known: Mapping[str, Recipe], kind: str) -> Recipe:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise ConfigError(f"unknown {kind}recipe {name!r}{hint}; recipes: {', '.join(known)}")
    return known[name]


SCHEDULE = ("decay_start_epoch", "decay_every_epochs", "average_from_epoch")
"""The settings that count epochs of a run of a certain length."""


def rescaled(training: TrainingSettings, epochs: int) -> TrainingSettings:
    """The same schedule over another number of epochs: what happens at two thirds of the run still does.

    Args:
        epochs: at least 1.
    """

    def moved(value: int | None) -> int | None:
        return value if not value else max(1, round(value * epochs / training.epochs))

    schedule: dict[str, Any] = {name: moved(getattr(training, name)) for name in SCHEDULE}
    return replace(training, epochs=epochs, **schedule)
