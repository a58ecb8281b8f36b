"""What ``kdcmae evaluate`` prints and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcmae.cli.common import note, print_json
from kdcmae.terminal import say, table

__all__ = ["publish"]

_CLASSES_SHOWN = 20

# Names of the figures for people, and which are shares to show in percent.
_NAMES = {
    "accuracy": "accuracy (%)",
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


def publish(document: Mapping[str, Any], output: Path | None, *, as_json: bool) -> None:
    """Print a report, and write it to ``TASK.json`` in a folder.

    Args:
        document: ``task``, ``model``, ``data``, ``settings`` and ``result``; figures that could not be measured are
            NaN, and become null.
        output: the folder; made where it is missing.
        as_json: print JSON rather than tables.
    """
    plain = _plain(document)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{document['task']}.json"
        path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
        note(f"written to {output}")
    if as_json:
        print_json(plain)
    elif plain["result"] is not None:
        _show(plain)


def _plain(value: Any) -> Any:
    """The document as JSON can hold it: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(document: Mapping[str, Any]) -> None:
    model, data, result = document["model"], document["data"], dict(document["result"])
    skipped = f", {len(data['skipped'])} skipped" if data["skipped"] else ""
    say(f"{document['task']} of {model['path']} ({model['runs_on']})")
    say(f"{data['clips']} clips of {data['manifest']}{skipped}")
    result.update(result.pop("classification", {}))
    result.pop("clips", None)
    classes = result.pop("classes", ())
    # A direction of retrieval, or a baseline, is a column of its own.
    columns = {name.replace("_", " "): value for name, value in result.items() if isinstance(value, dict)}
    figures = {name: value for name, value in result.items() if not isinstance(value, dict)}
    if figures:
        columns = {"model": figures, **columns}
    _show_figures(columns)
    if classes:
        _show_classes(classes)


def _show_figures(columns: Mapping[str, Mapping[str, Any]]) -> None:
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = (
        [
            _NAMES.get(name, name),
            *(_cell(name, column[name]) if name in column else "" for column in columns.values()),
        ]
        for name in names
    )
    say(table(("", *columns), rows, right=range(1, 1 + len(columns))))


def _show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    shown = ("clips", "accuracy", "average_precision", "auc")
    hardest = sorted((entry for entry in classes if entry["clips"]), key=lambda entry: entry["average_precision"])
    head = ("class", *(_NAMES.get(name, name) for name in shown))
    rows = ([entry["label"], *(_cell(name, entry[name]) for name in shown)] for entry in hardest[:_CLASSES_SHOWN])
    say(table(head, rows, right=range(1, 1 + len(shown))))
    if len(hardest) > _CLASSES_SHOWN:
        say(f"the {_CLASSES_SHOWN} hardest of {len(hardest)} classes; --json and --output give all")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    return f"{100 * value:.2f}" if "%" in _NAMES.get(name, "") else f"{value:.4g}"
