"""What the ablation compares, and how long it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ROWS", "AblationSettings", "Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Args:
        name: of its cells' folders.
        title: for people.
        objective: fields of :class:`~kdcmae.config.ObjectiveConfig` that differ from KDC-MAE's; None for no
            pretraining at all.
    """

    name: str
    title: str
    objective: Mapping[str, Any] | None = field(default_factory=dict)


# Each row adds one part to the row above it.
ROWS = (
    Row(name="scratch", title="from scratch", objective=None),
    Row(name="cav-mae", title="CAV-MAE: one view, no distillation", objective={"views": 1, "distillation": "none"}),
    Row(
        name="second-view",
        title="+ a second view, masked independently",
        objective={"complementary": False, "distillation": "none"},
    ),
    Row(name="complementary", title="+ complementary masks", objective={"distillation": "none"}),
    Row(name="kdc-mae", title="+ distillation: KDC-MAE"),
)


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """Budgets, the same for every row.

    Args:
        seeds: of weights, order, augmentation and masks; one cell per row and seed.
        unlabelled_clips: of AVSynth's train split, to pretrain on.
        labelled_clips: the first ones of the train split, to finetune on.
        test_clips: of the test split, to measure on.
        pretraining, finetuning: settings that differ from the recipes ``avsynth-pretrain`` and ``avsynth-finetune``.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    unlabelled_clips: int = 2048
    labelled_clips: int = 240
    test_clips: int = 600
    pretraining: Mapping[str, Any] = field(
        default_factory=lambda: {
            "mask_ratio": 0.5,  # with 0.75 and a third of the steps, seed 0 learnt little that finetuning could use
            "batch_size": 16,
            "learning_rate": 1e-3,
            "epochs": 6,
            "decay_start_epoch": 4,
            "decay_every_epochs": 1,
            "precision": "bf16",
        }
    )
    # Few steps: with four times as many, seed 0 learnt as much from scratch.
    finetuning: Mapping[str, Any] = field(
        default_factory=lambda: {
            "epochs": 5,
            "decay_start_epoch": 3,
            "warmup_steps": 10,
            "average_from_epoch": 5,
            "precision": "bf16",
        }
    )
