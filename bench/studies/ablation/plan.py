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
        pretraining: settings that differ from the recipe ``avsynth-pretrain``.
        finetuning: budgets by name, as settings that differ from the recipe ``avsynth-finetune``. A short one shows
            what pretraining saves, a long one what it adds to what the labels teach.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    unlabelled_clips: int = 2048
    labelled_clips: int = 240
    test_clips: int = 600
    pretraining: Mapping[str, Any] = field(default_factory=lambda: {"precision": "bf16"})
    finetuning: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {
            "75 steps": {
                "epochs": 5,
                "decay_start_epoch": 3,
                "warmup_steps": 10,
                "average_from_epoch": 5,
                "precision": "bf16",
            },
            "300 steps": {
                "epochs": 20,
                "decay_start_epoch": 14,
                "warmup_steps": 30,
                "average_from_epoch": 17,
                "precision": "bf16",
            },
        }
    )
