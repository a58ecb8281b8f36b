"""``kdcmae distill``: teach a small model what a finetuned one answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcmae.cli.train_common import TrainingCommand, run_options, start

__all__ = ["command"]


@click.command(name="distill", cls=TrainingCommand)
@click.argument("teacher", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@run_options
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="The teacher's classes, where the clips name them otherwise: text or CSV.",
)
def command(overrides: tuple[str, ...], **options: Any) -> None:
    """Teach a small model what a finetuned one answers, on your own clips.

    TEACHER is a finetuned checkpoint, ours or a published one. The student has its inputs and classes, and the size of
    --preset, or of the recipe. It learns the teacher's probabilities, which clips the teacher finds alike and, where
    the clips have them, labels: clips without labels are enough. --checkpoint is a pretraining to start the student
    from.

    \b
    kdcmae distill model.pth --labels classes.csv --preset edge --data clips.jsonl --validation test.jsonl \\
        --output out/student
    kdcmae distill model.safetensors --data avsynth --output out/quick --epochs 3 --set warmup_steps=0
    kdcmae distill model.safetensors --data clips.jsonl --set teacher_weight=1 --output out/unlabelled
    kdcmae-compile --target onnx --checkpoint out/student/model.safetensors --output out/student-onnx

    \b
    Recipes: vggsound-distill, avsynth-distill; `kdcmae recipes` says what each sets.
    """
    start("distill", overrides=overrides, **options)
