"""Metrics of an evaluation as text, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["cell", "figure_name", "interval", "percent"]

_NONE = "-"

# Names of the figures for people, and which are shares to show in per cent.
_NAMES = {
    "accuracy": "accuracy (%)",
    "top_5_accuracy": "top-5 accuracy (%)",
    "mean_average_precision": "mAP (%)",
    "average_precision": "AP (%)",
    "auc": "AUC (%)",
    "d_prime": "d'",
    "classes_left_out": "classes no clip has",
    "recall_at_1": "R@1 (%)",
    "recall_at_5": "R@5 (%)",
    "recall_at_10": "R@10 (%)",
    "median_rank": "median rank",
    "ciou": "cIoU@0.5 (%)",
    "pointing": "peak on object (%)",
    "side": "box side (% of frame)",
    "norm_pix": "normalised patches",
    "audio_mse": "audio masked MSE",
    "video_mse": "video masked MSE",
    "audio_constant_mse": "audio, one constant",
    "video_constant_mse": "video, one constant",
    "train_clips": "training clips",
    "penalty": "ridge penalty",
}


def figure_name(name: str) -> str:
    """Display name of a metric."""
    return _NAMES.get(name, name)


def cell(name: str, value: Any) -> str:
    """A figure as a table shows it, without its unit.

    Args:
        name: of the figure in its result.
        value: of it; None where it could not be measured.
    """
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{100 * value:.2f}" if "%" in figure_name(name) else f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share in per cent with its unit."""
    return _NONE if share is None else f"{100 * share:.1f} %"


def interval(ends: Sequence[float | None] | None, *, absent: str = _NONE) -> str:
    """The interval of a share in per cent, without its unit.

    Args:
        ends: of it; None where there is none, and with None in it where it could not be measured.
        absent: text if there is none.
    """
    if ends is None:
        return absent
    low, high = ends
    return _NONE if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
