"""What ``kdcmae pretrain`` and ``kdcmae finetune`` share: their options, and how a run is started and told of."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli.common import json_option, note, print_json, weights_option
from kdcmae.errors import MissingDependencyError
from kdcmae.extras import TRAIN, is_installed, require_installed
from kdcmae.terminal import say

if TYPE_CHECKING:
    from kdcmae.checkpoints import Transfer
    from kdcmae.training.loop import Trainer
    from kdcmae.training.recipes import Stage
    from kdcmae.training.run import Run
    from kdcmae.training.runs import Request

__all__ = ["run_options", "start"]

_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--data", required=True, help="Manifest (.json, .csv, .jsonl), folder of .tar shards, or avsynth[:CLIPS]."
    ),
    click.option("--validation", help="Clips to measure on after each epoch, given as --data."),
    click.option("--output", type=_PATH, required=True, help="Folder for the weights, the log and the state."),
    click.option(
        "--recipe",
        "recipe_name",
        help="Published settings to start from; an unknown name lists them.",
        show_default="AVSynth's or VGGSound's",
    ),
    click.option("--checkpoint", type=_PATH, help="Weights to start from."),
    weights_option,
    click.option("--preset", type=click.Choice(["base", "small", "tiny"]), help="Size of a fresh model."),
    click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a setting; may be repeated."),
    click.option("--resume", is_flag=True, help="Go on where the run in --output stopped."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train."),
    json_option,
)


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of every training command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def start(
    stage: Stage,
    assemble: Callable[[Request], tuple[Run, Transfer | None]],
    *,
    recipe_name: str | None,
    resume: bool,
    device: str,
    as_json: bool,
    **request: Any,
) -> None:
    """Put a run together, run it and say how it ended; under ``torchrun`` only the first rank speaks.

    Args:
        stage: whose recipes to take.
        assemble: makes the run of a request.
        recipe_name: None for AVSynth's own, or VGGSound's for other data.
        resume: go on with the run in the folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        as_json: print one JSON object at the end.
        request: fields of :class:`~kdcmae.training.runs.Request`.
    """
    require_installed("torch", "safetensors", "av", install=TRAIN)
    from kdcmae.collectives import rank
    from kdcmae.training.distributed import joined
    from kdcmae.training.loop import Trainer
    from kdcmae.training.recipes import recipe
    from kdcmae.training.runs import Request
    from kdcmae.training.sources import is_avsynth
    from kdcmae.training.weight_files import BEST_FILE

    name = recipe_name or ("avsynth" if is_avsynth(request["data"]) else "vggsound") + f"-{stage}"
    with joined(device) as place:
        run, transfer = assemble(Request(recipe=recipe(name, stage), **request))
        trainer = Trainer(run, device=place, resume=resume, progress=sys.stderr)
        if rank() == 0:
            _announce(trainer, name, transfer)
        summary = trainer.fit()
    if rank() > 0:
        return
    best = None
    if summary.best is not None:
        best = {**asdict(summary.best), "file": str(summary.weights.with_name(BEST_FILE))}
    document = {
        "stage": stage,
        "recipe": name,
        **asdict(summary),
        "weights": str(summary.weights),
        "final": {**asdict(summary.final), "description": str(summary.final)},
        "best": best,
        "transfer": None if transfer is None else {**asdict(transfer), "taken": len(transfer.taken)},
    }
    if as_json:
        print_json(document)
    else:
        _tell(document)


def _announce(trainer: Trainer, recipe_name: str, transfer: Transfer | None) -> None:
    """Say what is about to run."""
    from kdcmae.collectives import world_size
    from kdcmae.training.recipes import RECIPES

    run, settings = trainer.run, trainer.settings
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    note(f"recipe {recipe_name}: {RECIPES[recipe_name].about}")
    note(
        f"{parameters / 1e6:.1f} M parameters on {world_size()} x {trainer.device.type}, "
        f"{settings.epochs} epochs of {trainer.steps_per_epoch} steps of {settings.batch_size} clips"
    )
    if transfer is not None:
        note(f"took {len(transfer.taken)} tensors from the checkpoint")
        for names, what in ((transfer.fresh, "fresh"), (transfer.left, "not used")):
            if names:
                modules = Counter(name.partition(".")[0] for name in names)
                note(f"  {what}: {', '.join(f'{module} ({count})' for module, count in modules.items())}")
    for module, what in {"tensorboard": "a log for TensorBoard", "PIL": "pictures of its curves"}.items():
        if not is_installed(module):
            note(f"without {what}: {MissingDependencyError(module, install=TRAIN)}")
    if trainer.position.step:
        note(f"going on after step {trainer.position.step}")


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
