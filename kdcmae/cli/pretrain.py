"""``kdcmae pretrain``: learn from clips without labels."""

from __future__ import annotations

from typing import Any

import click

from kdcmae.cli.train_common import TrainingCommand, run_options, start

__all__ = ["command"]


@click.command(name="pretrain", cls=TrainingCommand)
@run_options
def command(**options: Any) -> None:
    """Pretrain KDC-MAE: reconstruction, contrast and distillation over masked views.

    --checkpoint is an ImageNet MAE with its decoder, or an earlier pretraining to go on from.

    \b
    kdcmae pretrain --data avsynth --output out/pretrained
    kdcmae pretrain --data train.jsonl --recipe vggsound-pretrain --checkpoint mae.pth --output out/vggsound
    torchrun --nproc-per-node 8 --no-python kdcmae pretrain --data train.jsonl --output out/vggsound

    \b
    Recipes: audioset-pretrain-base, audioset-pretrain-plus, audioset-pretrain-plusplus, vggsound-pretrain,
    avsynth-pretrain; `kdcmae recipes` says what each sets.
    """
    start("pretrain", **options)
