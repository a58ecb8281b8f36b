"""What ``kdcmae evaluate`` prints and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae.cli.common import note, print_json
from kdcmae.evaluation.wording import cell, figure_name, interval
from kdcmae.files.disk import writing
from kdcmae.terminal import line, say, table

if TYPE_CHECKING:
    from kdcmae.evaluation.pages import Pictures

__all__ = ["publish"]

_CLASSES_SHOWN = 20


def publish(document: Mapping[str, Any], output: Path | None, pictures: Pictures | None, *, as_json: bool) -> None:
    """Print a report, and write it to ``TASK.json`` in a folder, with the page ``TASK.html``.

    Args:
        document: ``task``, ``model``, ``data``, ``settings``, ``result`` and what the task's page needs beside it;
            figures that could not be measured are NaN, and become null.
        output: the folder; made where it is missing.
        pictures: for the page; None for no page.
        as_json: print JSON rather than tables.

    Raises:
        DiskFullError: there is no space left for a file.
    """
    plain = _plain(document)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        _write(output / f"{plain['task']}.json", json.dumps(plain, indent=2) + "\n")
        if pictures is not None:
            from kdcmae.evaluation.pages import render

            shown = {line(clip): own for clip, own in pictures.items()}
            _write(output / f"{plain['task']}.html", render(_in_lines(plain), shown))
        note(f"written to {output}" + ("" if pictures is None else f": open {output / plain['task']}.html"))
    if as_json:
        print_json(plain)
    elif plain["result"] is not None:
        _show(plain)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from kdcmae.files.replacing import replacing

    with writing(path), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _in_lines(value: Any) -> Any:
    """The document without control characters and line breaks in its texts, which files' names may have."""
    if isinstance(value, Mapping):
        return {line(key): _in_lines(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_lines(item) for item in value]
    return line(value) if isinstance(value, str) else value


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
    columns = {name: value for name, value in result.items() if isinstance(value, dict)}
    figures = {name: value for name, value in result.items() if not isinstance(value, dict)}
    intervals = document.get("intervals", {})
    if figures:
        columns, intervals = {"model": figures, **columns}, {"model": intervals}
    _show_figures(columns, intervals)
    if classes:
        _show_classes(classes)


def _show_figures(columns: Mapping[str, Mapping[str, Any]], intervals: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures, a column per result and one behind it for its intervals, where it has any."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    head, rows = [""], [[figure_name(name)] for name in names]
    for title, column in columns.items():
        head.append(title.replace("_", " "))
        for row, name in zip(rows, names, strict=True):
            row.append(cell(name, column[name]) if name in column else "")
        if known := intervals.get(title):
            head.append("95 % interval")
            for row, name in zip(rows, names, strict=True):
                row.append(interval(known.get(name), absent=""))
    say(table(head, rows, right=range(1, len(head))))


def _show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    shown = ("clips", "accuracy", "average_precision", "auc")
    hardest = sorted((entry for entry in classes if entry["clips"]), key=lambda entry: entry["average_precision"])
    head = ("class", *(figure_name(name) for name in shown))
    rows = ([entry["label"], *(cell(name, entry[name]) for name in shown)] for entry in hardest[:_CLASSES_SHOWN])
    say(table(head, rows, right=range(1, 1 + len(shown))))
    if len(hardest) > _CLASSES_SHOWN:
        say(f"the {_CLASSES_SHOWN} hardest of {len(hardest)} classes; --json and --output give all")
