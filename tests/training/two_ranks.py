"""What two ranks compute, for test_distributed.py; started by torchrun: ``two_ranks.py FOLDER``.

Also imported by that test, to compute the same in one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from random_run import random_run, train

from kdcmae.collectives import rank, world_size
from kdcmae.data.broken import BrokenClips
from kdcmae.errors import DataError
from kdcmae.losses import contrastive_loss, distillation_loss, softmax_distillation_loss
from kdcmae.training.distributed import gathered, joined

# Large weights, so that a wrong gradient of the losses that look across ranks bends the others' curves.
ACROSS = {"contrastive_weight": 1.0, "bidirectional": True, "distilled_latents": ("joint", "audio", "video")}
# The first rank has one clip more, and the other one none of the last batch.
UNEVEN = {"clips": 5, "whole_batches": False}
RUNS: dict[str, dict[str, Any]] = {
    "pretrain": {"stage": "pretrain", "model": ACROSS, "validation": {"clips": 8}},
    "uncertainty": {
        "stage": "pretrain",
        "epochs": 1,
        "model": {"weighting": "uncertainty", "complementary": False, "views": 3},
    },
    "finetune": {
        "stage": "finetune",
        "accumulation_steps": 2,
        "clip_grad_norm": 0.1,
        "average_from_epoch": 1,
        "validation": UNEVEN,
    },
    "sharded": {
        "stage": "pretrain",
        "epochs": 1,
        "batches": {"clips": 12},
        "validation": {"clips": 8},
        "model": ACROSS,
        "accumulation_steps": 2,
        "clip_grad_norm": 0.1,
        "parallel": "fsdp",
    },
    "sharded_finetune": {
        "stage": "finetune",
        "epochs": 1,
        "batches": {"clips": 4},
        "validation": UNEVEN,
        "model": {"multi_label": True},
        "average_from_epoch": 1,
        "parallel": "fsdp",
    },
}


def gradients() -> dict[str, list[float]]:
    """Gradients of a shared projection under each loss that looks across ranks, averaged as DDP does."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 6, 4, 8, generator=generator).chunk(world_size(), dim=1)[rank()]
    start = torch.randn(8, 5, generator=generator)
    losses = {
        "one_direction": lambda a, v, _: contrastive_loss(a.mean(1), v.mean(1)),
        "bidirectional": lambda a, v, _: contrastive_loss(a.mean(1), v.mean(1), bidirectional=True),
        "distillation": lambda *views: distillation_loss(views).mean(),
        "softmax_distillation": lambda *views: softmax_distillation_loss(views).mean(),
    }
    result = {}
    for name, loss in losses.items():
        weight = start.clone().requires_grad_()
        loss(*(inputs @ weight)).backward()
        gradient = weight.grad
        if world_size() > 1:
            torch.distributed.all_reduce(gradient)
        result[name] = (gradient / world_size()).flatten().tolist()
    return result


def stopped_by_broken_clips(folder: Path) -> list[str]:
    """What each rank says of two broken clips that are spread over the ranks, where one would be within the limit."""
    run = random_run("pretrain", folder, epochs=1)
    run.train.broken = BrokenClips(24, 0.05)
    try:
        run.train.broken.add([(f"clip_{number}", "is damaged") for number in range(2)[rank() :: world_size()]])
        train(run)
    except DataError as error:
        return gathered(str(error))
    return gathered("went on")


def run_all(folder: Path) -> None:
    """Every run in a folder of its own, and what else the ranks found in a file each."""
    for name, settings in RUNS.items():
        train(random_run(output=folder / name, **settings))
    # The sharded run goes on from its last state for another epoch.
    train(random_run(output=folder / "sharded", **{**RUNS["sharded"], "epochs": 2}), resume=True)
    found = {"gradients": gradients(), "broken": stopped_by_broken_clips(folder / "broken")}
    if rank() == 0:
        for name, values in found.items():
            (folder / f"{name}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu"):
        run_all(Path(sys.argv[1]))
