from __future__ import annotations

import dataclasses

import pytest

from kdcmae.config import ClassifierConfig, PretrainingConfig, preset
from kdcmae.data.augment import Augmentation
from kdcmae.errors import ConfigError
from kdcmae.training.recipes import RECIPES, recipe

PUBLISHED = {  # learning rate, batch, epochs, decay start, every, head factor, average from, balanced, multi-label
    "audioset-pretrain-base": (5e-5, 48, 25, 10, 5, None, None, None, None),
    "audioset-pretrain-plus": (1e-4, 120, 25, 10, 5, None, None, None, None),
    "audioset-pretrain-plusplus": (2e-4, 256, 25, 10, 5, None, None, None, None),
    "vggsound-pretrain": (1e-4, 120, 25, 10, 5, None, None, None, None),
    "audioset20k-finetune": (5e-5, 36, 15, 5, 1, 100, 3, False, True),
    "audioset2m-finetune": (1e-5, 48, 10, 2, 1, 50, 1, True, True),
    "vggsound-finetune": (1e-4, 48, 10, 2, 1, 10, 3, True, False),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    rate, batch, epochs, start, every, head, average, balanced, multi_label = PUBLISHED[name]
    entry = RECIPES[name]
    training = entry.training
    assert (training.learning_rate, training.batch_size, training.epochs) == (rate, batch, epochs)
    assert (training.decay_start_epoch, training.decay_every_epochs, training.decay_factor) == (start, every, 0.5)
    assert (training.betas, training.weight_decay, training.warmup_steps) == ((0.95, 0.999), 5e-7, 0)
    assert training.average_from_epoch == average
    assert entry.preset == "base"
    if entry.stage == "finetune":
        assert training.head_learning_rate_factor == head
        assert training.balanced is balanced
        assert training.label_smoothing == 0.1
        assert entry.model.get("multi_label", False) is multi_label
        augmentation = Augmentation(**entry.augmentation)
        assert (augmentation.frequency_mask, augmentation.time_mask, augmentation.mixup_rate) == (48, 192, 0.5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_configuration(name):
    entry = RECIPES[name]
    kind = PretrainingConfig if entry.stage == "pretrain" else ClassifierConfig
    extra = {} if entry.stage == "pretrain" else {"num_classes": 3}
    config = preset(kind, entry.preset, **{**extra, **entry.sizes, **entry.model})
    assert dataclasses.asdict(config).items() >= {**entry.sizes, **entry.model}.items()
    assert dataclasses.asdict(Augmentation(**entry.augmentation)).items() >= entry.augmentation.items()


def test_unknown_recipes_name_the_nearest_of_their_stage():
    assert recipe("avsynth-pretrain", "pretrain") is RECIPES["avsynth-pretrain"]
    with pytest.raises(ConfigError, match="did you mean 'vggsound-finetune'"):
        recipe("vggsound-finetun", "finetune")
    with pytest.raises(ConfigError, match="unknown finetune recipe 'avsynth-pretrain'"):
        recipe("avsynth-pretrain", "finetune")
