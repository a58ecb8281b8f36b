"""``kdcmae recipes``: the settings of a training run, and the values of each recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.terminal import say, table

if TYPE_CHECKING:
    from kdcmae.training.catalogue import Setting
    from kdcmae.training.recipes import Recipe, Stage

__all__ = ["command", "settings_document", "settings_text"]


@click.command(name="recipes", cls=KdcmaeCommand)
@click.argument("name", metavar="[RECIPE]", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the recipes of `kdcmae pretrain`, `finetune` and `distill`, and every setting with its unit and meaning.

    With a RECIPE: its value of every setting, which --set KEY=VALUE changes.

    \b
    kdcmae recipes
    kdcmae recipes vggsound-finetune
    kdcmae recipes --json
    """
    from kdcmae.training.recipes import RECIPES, Stage, find

    if name is not None:
        recipe = find(name)
        if as_json:
            print_json({"recipe": name, **_facts(recipe), "settings": settings_document(recipe.stage, recipe)})
        else:
            say(f"{name}: {recipe.about}\n\n{settings_text(recipe.stage, recipe)}")
        return
    if as_json:
        recipes = {name: _facts(recipe) for name, recipe in RECIPES.items()}
        settings = {stage: settings_document(stage) for stage in get_args(Stage)}
        print_json({"recipes": recipes, "settings": settings})
        return
    say(table(("recipe", "for", "about"), [(name, f"kdcmae {r.stage}", r.about) for name, r in RECIPES.items()]))
    for stage in get_args(Stage):
        say(f"\nSettings of `kdcmae {stage}`, with defaults that every recipe shares unless it says otherwise\n")
        say(settings_text(stage))
    say("\nWhat each recipe sets otherwise\n")
    say(_differences_text(RECIPES))


def settings_document(stage: Stage, recipe: Recipe | None = None) -> list[dict[str, Any]]:
    """Every setting of a stage as plain values; with a recipe its ``value`` too."""
    from kdcmae.training.catalogue import differences, settings_of

    own = {} if recipe is None else differences(recipe)
    rows = []
    for setting in settings_of(stage):
        value = {} if recipe is None else {"value": own.get(setting.name, setting.default)}
        rows.append({**asdict(setting), **value})
    return rows


def settings_text(stage: Stage, recipe: Recipe | None = None) -> str:
    """Every setting of a stage as ``key=value``, its unit and its meaning, in the width of the terminal.

    Args:
        stage: whose settings.
        recipe: whose values are shown, and which of them are not the defaults; None for the defaults.
    """
    from kdcmae.training.catalogue import differences, settings_of

    own = {} if recipe is None else differences(recipe)
    formatter = click.HelpFormatter()
    parts: dict[str, list[tuple[str, str]]] = {}
    for setting in settings_of(stage):
        parts.setdefault(setting.part, []).append(_row(setting, own))
    for part, rows in parts.items():
        with formatter.section(part):
            formatter.write_dl(rows, col_max=34)
    return formatter.getvalue().strip("\n")


def _row(setting: Setting, own: dict[str, Any]) -> tuple[str, str]:
    """``key=value``, and ``[unit] meaning (values; default)``."""
    from kdcmae.training.catalogue import shown_value

    unset = setting.default is None and "none" not in setting.takes
    value = own.get(setting.name, setting.default)
    shown = "" if unset and setting.name not in own else shown_value(value)
    facts = [setting.takes]
    if setting.name in own and not unset:
        facts.append(f"default {shown_value(setting.default)}")
    unit = f"[{setting.unit}] " if setting.unit else ""
    return f"{setting.name}={shown}", f"{unit}{setting.meaning.rstrip('.')} ({'; '.join(facts)})"


def _differences_text(recipes: Mapping[str, Recipe]) -> str:
    from kdcmae.training.catalogue import differences, shown_value

    formatter = click.HelpFormatter()
    formatter.write_dl(
        [
            (name, " ".join(f"{key}={shown_value(value)}" for key, value in differences(recipe).items()))
            for name, recipe in recipes.items()
        ],
        col_max=34,
    )
    return formatter.getvalue().strip("\n")


def _facts(recipe: Recipe) -> dict[str, Any]:
    from kdcmae.training.catalogue import differences

    return {"stage": recipe.stage, "about": recipe.about, "preset": recipe.preset, "sets": differences(recipe)}
