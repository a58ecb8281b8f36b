"""Shared by ``kdcmae pretrain``, ``finetune`` and ``distill``: options, start and report of a run."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from kdcmae.cli.common import KdcmaeCommand, Number, json_option, note, print_json, weights_option
from kdcmae.cli.recipes import settings_document, settings_text
from kdcmae.errors import MissingDependencyError
from kdcmae.extras import TRAIN, is_installed, require_installed
from kdcmae.presets import PRESETS
from kdcmae.terminal import say

if TYPE_CHECKING:
    import torch

    from kdcmae.checkpoints import Transfer
    from kdcmae.training.loop import Trainer
    from kdcmae.training.recipes import Stage
    from kdcmae.training.run import Summary
    from kdcmae.training.runs import Request
    from kdcmae.training.settings import TrainingSettings

__all__ = ["TrainingCommand", "run_options", "start"]

_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--data", required=True, help="Manifest (.json, .csv, .jsonl), .tar shard, folder of them, or avsynth[:CLIPS]."
    ),
    click.option("--validation", help="Clips to measure on after each epoch, given as --data."),
    click.option("--output", type=_PATH, required=True, help="Folder for the weights, the log and the state."),
    click.option(
        "--recipe",
        "recipe_name",
        help="Published settings to start from; `kdcmae recipes` lists them.",
        show_default="AVSynth's or VGGSound's",
    ),
    click.option("--checkpoint", type=_PATH, help="Weights to start from."),
    weights_option,
    click.option("--preset", type=click.Choice(list(PRESETS)), help="Size of a fresh model."),
    click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data; the schedule follows."),
    click.option("--batch-size", type=click.IntRange(min=1), help="Clips per optimiser step, over all GPUs together."),
    click.option("--lr", type=Number(min=0, min_open=True), help="Learning rate, before it decays."),
    click.option(
        "--patience",
        type=click.IntRange(min=1),
        help="Stop after so many epochs without a better one.",
    ),
    click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change any setting; may be repeated. --set help lists all.",
    ),
    click.option("--resume", is_flag=True, help="Go on where the run in --output stopped."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device to train on."),
    json_option,
)


_SHORTCUTS = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "lr": "learning_rate",
    "patience": "early_stop_epochs",
}
"""Settings that have an option of their own, by its name."""


class TrainingCommand(KdcmaeCommand):
    """A training command: ``--set help`` lists its settings, regardless of other options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        if "help" in (given.get("overrides") or ()) and not ctx.resilient_parsing:
            stage = cast("Stage", self.name)
            _show_settings(stage, given.get("recipe_name"), as_json=bool(given.get("as_json")))
            ctx.exit()
        return super().parse_args(ctx, args)


def _show_settings(stage: Stage, recipe_name: str | None, *, as_json: bool) -> None:
    from kdcmae.training.recipes import recipe

    entry = None if recipe_name is None else recipe(recipe_name, stage)
    if as_json:
        print_json({"stage": stage, "recipe": recipe_name, "settings": settings_document(stage, entry)})
    else:
        say(settings_text(stage, entry))


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of every training command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def start(
    stage: Stage,
    *,
    recipe_name: str | None,
    resume: bool,
    device: str,
    as_json: bool,
    overrides: tuple[str, ...],
    **request: Any,
) -> None:
    """Assemble a run, run it and report its result; under ``torchrun`` only the first rank prints.

    Args:
        stage: whose recipes to take.
        recipe_name: None for AVSynth's own, or VGGSound's for other data.
        resume: continue the run in the folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        as_json: print one JSON object at the end.
        overrides: settings as ``key=value``.
        request: options that stand for a setting, and fields of :class:`~kdcmae.training.runs.Request`.
    """
    require_installed("torch", "safetensors", "av", install=TRAIN)
    from kdcmae.training.catalogue import parse_settings

    options = {setting: request.pop(option) for option, setting in _SHORTCUTS.items()}
    settings = (*overrides, *(f"{setting}={value}" for setting, value in options.items() if value is not None))
    parse_settings(stage, settings)  # before PyTorch is loaded, which takes seconds
    from kdcmae.collectives import rank
    from kdcmae.data.avsynth.naming import names_avsynth
    from kdcmae.training.distributed import joined
    from kdcmae.training.recipes import recipe
    from kdcmae.training.runs import Request

    name = recipe_name or ("avsynth" if names_avsynth(request["data"]) else "vggsound") + f"-{stage}"
    with joined(device) as place:
        if rank() > 0:
            logging.getLogger("kdcmae").setLevel(logging.ERROR)  # the first rank prints the same
        asked = Request(recipe=recipe(name, stage), overrides=settings, resume=resume, **request)
        summary, transfer = _train(stage, asked, place, name)
    if rank() > 0:
        return
    document = {"stage": stage, "recipe": name, **_ending(summary, transfer)}
    if as_json:
        print_json(document)
    else:
        _tell(document)


def _train(stage: Stage, asked: Request, place: torch.device, name: str) -> tuple[Summary, Transfer | None]:
    """Assemble a run and train; the trainer is released on return, before the process group ends."""
    from kdcmae.collectives import rank
    from kdcmae.training.loop import Trainer
    from kdcmae.training.runs import RUNS

    run, transfer = RUNS[stage](asked)
    trainer = Trainer(run, device=place, resume=asked.resume, progress=sys.stderr)
    if rank() == 0:
        _announce(trainer, name, transfer)
    return trainer.fit(), transfer


def _ending(summary: Summary, transfer: Transfer | None) -> dict[str, Any]:
    """How a run ended, as plain values."""
    from kdcmae.training.weight_files import BEST_FILE

    best = None
    if summary.best is not None:
        best = {**asdict(summary.best), "file": str(summary.weights.with_name(BEST_FILE))}
    return {
        **asdict(summary),
        "weights": str(summary.weights),
        "final": {**asdict(summary.final), "description": str(summary.final)},
        "best": best,
        "transfer": None if transfer is None else {**asdict(transfer), "taken": len(transfer.taken)},
    }


def _announce(trainer: Trainer, recipe_name: str, transfer: Transfer | None) -> None:
    """Print what is about to run."""
    from kdcmae.collectives import world_size
    from kdcmae.normalisation import STATISTICS, described
    from kdcmae.training.distillation import DistillationTask
    from kdcmae.training.recipes import RECIPES

    run, settings = trainer.run, trainer.settings
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    note(f"recipe {recipe_name}: {RECIPES[recipe_name].about}")
    note(
        f"{parameters / 1e6:.1f} M parameters on {world_size()} x {trainer.device.type}, "
        f"{settings.epochs} epochs of {trainer.steps_per_epoch} steps of {settings.batch_size} clips"
    )
    every = [name for names in STATISTICS.values() for name in names]
    note(f"inputs normalised with {described(run.model.config, every)}")
    if isinstance(run.task, DistillationTask):
        weights = sum(parameter.numel() for parameter in run.task.teacher.parameters())
        note(f"its teacher has {weights / 1e6:.1f} M parameters and {run.task.teacher.config.num_classes} classes")
    if transfer is not None:
        note(f"took {len(transfer.taken)} tensors from the checkpoint")
        for names, what in ((transfer.fresh, "fresh"), (transfer.left, "not used")):
            if names:
                modules = Counter(name.partition(".")[0] for name in names)
                note(f"  {what}: {', '.join(f'{module} ({count})' for module, count in modules.items())}")
    _announce_changes(settings, RECIPES[recipe_name].training)
    steps = settings.epochs * trainer.steps_per_epoch
    if settings.warmup_steps >= steps and not trainer.position.step:  # a resumed run keeps its warm-up
        note(
            f"the learning rate rises over warmup_steps={settings.warmup_steps} and this run has {steps}, so that it "
            f"gets no further than the warm-up; a shorter one learns faster: --set warmup_steps=0"
        )
    for module, what in {"tensorboard": "a log for TensorBoard", "PIL": "pictures of its curves"}.items():
        if not is_installed(module):
            note(f"without {what}: {MissingDependencyError(module, install=TRAIN)}")
    if run.validation is None:
        note("without --validation nothing is measured after an epoch, and no best weights are kept")
    if trainer.position.step:
        note(f"going on after step {trainer.position.step}")


def _announce_changes(settings: TrainingSettings, own: TrainingSettings) -> None:
    """Print the differences from the recipe, and whether its learning rate fits the batch size."""
    from kdcmae.training.catalogue import shown_value

    changes = {
        name: f"{name} {shown_value(value)} -> {shown_value(getattr(settings, name))}"
        for name, value in asdict(own).items()
        if getattr(settings, name) != value
    }
    if changes:
        note(f"changed from the recipe: {', '.join(changes.values())}")
    if "batch_size" in changes and "learning_rate" not in changes:
        note("the learning rate stays the recipe's, which was chosen for its own batch size; --lr changes it")


def _tell(document: dict[str, Any]) -> None:
    """Say how it ended."""
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in document["metrics"].items())
    note(f"{document['steps']} steps in {document['seconds']:.0f} s, {document['clips_per_second']:.1f} clips/s")
    note(metrics)
    for clip, reason in document["broken"].items():
        note(f"set aside {clip}: {reason}")
    best = document["best"]
    if document["stopped_early"]:
        note(f"stopped early: no epoch was better than epoch {best['epoch']}; more epochs go on with --resume")
    if best is not None:
        note(f"best: epoch {best['epoch']}, validation {best['metric']} {best['value']:.4g}, in {best['file']}")
    note(f"{document['final']['description']}, in:")
    say(document["weights"])
