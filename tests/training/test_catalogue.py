from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from kdcmae.training.catalogue import differences, kinds_of, settings_of, shown_value
from kdcmae.training.recipes import RECIPES, Stage, rescaled
from kdcmae.training.settings import FinetuningSettings, parse_overrides

every_stage = pytest.mark.parametrize("stage", get_args(Stage))


@every_stage
def test_every_setting_says_what_it_means_and_takes(stage):
    settings = settings_of(stage)
    fields = {field.name for kind in kinds_of(stage).values() for field in dataclasses.fields(kind)}
    classes, taught = {"num_classes", "labels"}, {"modality", "multi_label", "audio_length", "mel_bins", "image_size"}
    assert {setting.name for setting in settings} == fields - classes - (taught if stage == "distill" else set())
    for setting in settings:
        assert len(setting.meaning) > 5, setting
        assert setting.takes, setting
        assert not {"`", ":class:"} & set(setting.meaning), setting


@every_stage
def test_every_setting_has_a_meaning_of_its_own(stage):
    meanings = Counter(setting.meaning for setting in settings_of(stage))
    assert [meaning for meaning, settings in meanings.items() if settings > 1] == []


@every_stage
def test_counts_of_something_have_its_unit(stage):
    for setting in settings_of(stage):
        if setting.name.endswith(("_steps", "_epochs", "_epoch", "_depth", "_size")) or setting.name in (
            *("epochs", "fbank_mean", "fbank_std", "image_mean", "image_std"),
        ):
            assert setting.unit, setting.name


@every_stage
def test_a_shown_default_is_what_set_takes(stage):
    for setting in settings_of(stage):
        if setting.default is not None or "none" in setting.takes:
            parsed = parse_overrides([f"{setting.name}={shown_value(setting.default)}"], kinds_of(stage))
            assert parsed[setting.part][setting.name] == setting.default


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_sets_can_be_set(name):
    recipe = RECIPES[name]
    texts = [f"{key}={shown_value(value)}" for key, value in differences(recipe).items()]
    assert parse_overrides(texts, kinds_of(recipe.stage))
    assert {"learning_rate", "epochs", "batch_size"} <= differences(recipe).keys()


@pytest.mark.parametrize(
    ("epochs", "schedule"), [(12, (8, 1, 11)), (6, (4, 1, 6)), (3, (2, 1, 3)), (1, (1, 1, 1)), (120, (80, 10, 110))]
)
def test_a_schedule_follows_the_number_of_epochs(epochs, schedule):
    training = rescaled(RECIPES["avsynth-finetune"].training, epochs)
    assert isinstance(training, FinetuningSettings)
    assert training.epochs == epochs
    assert (training.decay_start_epoch, training.decay_every_epochs, training.average_from_epoch) == schedule


def test_what_is_off_stays_off():
    assert rescaled(RECIPES["vggsound-pretrain"].training, 5).average_from_epoch is None


def test_listing_settings_loads_no_torch():
    code = (
        "import sys\nfrom kdcmae.cli import main\n"
        "for words in (['recipes', '--json'], ['finetune', '--set', 'help']):\n"
        "    main(words, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "learning_rate" in result.stdout
