from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kdcmae.cli import main
from kdcmae.training.recipes import RECIPES


def run(*words: str):
    return CliRunner().invoke(main, words)


def test_every_recipe_and_every_setting_is_listed():
    shown = run("recipes").stdout
    assert all(name in shown for name in RECIPES)
    assert "warmup_steps=0" in shown
    assert "[optimiser steps] over which the learning rate" in " ".join(shown.split())
    document = json.loads(run("recipes", "--json").stdout)
    assert document["recipes"]["vggsound-finetune"]["sets"]["batch_size"] == 48
    (steps,) = [row for row in document["settings"]["pretrain"] if row["name"] == "warmup_steps"]
    assert (steps["default"], steps["unit"], steps["takes"]) == (0, "optimiser steps", "whole number")


@pytest.mark.parametrize("words", [("recipes",), ("finetune", "--set", "help", "--recipe")], ids=" ".join)
def test_a_recipe_shows_its_values_beside_the_defaults(words):
    words = (*words, "audioset20k-finetune")
    result = run(*words)
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "average_from_epoch=3 [epoch] the first one" in shown
    assert "default none)" in shown
    document = json.loads(run(*words, "--json").stdout)
    (row,) = [row for row in document["settings"] if row["name"] == "frequency_mask"]
    assert (row["value"], row["default"], row["unit"]) == (48, 0, "mel bands")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipes", "vggsound-finetun"), "did you mean 'vggsound-finetune'"),
        (("finetune", "--set", "help", "--recipe", "vggsound-pretrain"), "unknown finetune recipe"),
    ],
)
def test_an_unknown_recipe_is_one_line(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_among_other_settings_still_needs_no_data():
    assert "label_smoothing=0.1" in run("finetune", "--set", "epochs=3", "--set", "help").stdout
    assert "label_smoothing" not in run("pretrain", "--set=help").stdout
