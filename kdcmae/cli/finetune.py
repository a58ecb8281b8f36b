"""``kdcmae finetune``: learn the labels of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcmae.cli.train_common import TrainingCommand, run_options, start

__all__ = ["command"]


@click.command(name="finetune", cls=TrainingCommand)
@run_options
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Classes: text or CSV.", show_default="those in the data"
)
@click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="Inputs of the model.",
    show_default="audiovisual",
)
@click.option("--linear-probe", is_flag=True, help="Train the head alone, over a frozen encoder.")
def command(modality: str | None, linear_probe: bool, overrides: tuple[str, ...], **options: Any) -> None:
    """Finetune a pretrained model on labelled clips.

    --checkpoint is a pretraining checkpoint, ours or a published one; without it the model starts from scratch.

    \b
    kdcmae finetune --data avsynth --checkpoint out/pretrained/model.safetensors --output out/finetuned
    kdcmae finetune --data train.jsonl --validation test.jsonl --labels classes.csv --modality audio \\
        --recipe vggsound-finetune --checkpoint cav-mae.pth --output out/vggsound
    kdcmae finetune --data avsynth --output out/short --epochs 3 --batch-size 32 --lr 2e-3 --patience 2
    kdcmae finetune --recipe vggsound-finetune --set help

    \b
    Recipes: audioset20k-finetune, audioset2m-finetune, vggsound-finetune, avsynth-finetune; `kdcmae recipes` says
    what each sets.
    """
    settings = [*([f"modality={modality}"] if modality else []), *(["trained=head"] if linear_probe else [])]
    start("finetune", overrides=(*settings, *overrides), **options)
