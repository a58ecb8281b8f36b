"""Shared parts of the command lines: command classes, consoles and JSON output.

Results go to stdout; progress, notes and errors go to stderr, so that ``--json`` leaves exactly one JSON
object on stdout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from kdcmae import progress
from kdcmae.cli.commands import KdcmaeCommand, KdcmaeGroup, LazyGroup, Number
from kdcmae.progress import Progress
from kdcmae.terminal import note, progress_console, say, status

__all__ = [
    "LARGEST_BATCH",
    "KdcmaeCommand",
    "KdcmaeGroup",
    "LazyGroup",
    "Number",
    "Steps",
    "json_option",
    "note",
    "print_json",
    "progress_console",
    "thread_count",
    "weights_option",
]

weights_option = click.option(
    "--weights",
    type=click.Choice(["model", "ema"]),
    help="Weights to take from a checkpoint that holds both: those as trained, or their moving average.",
    show_default="the only ones there",
)

LARGEST_BATCH = 4096  # a build makes samples of that size, in float32

thread_count = click.IntRange(1, 4096)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    say(json.dumps(document, indent=2, sort_keys=False))


class Steps(progress.Steps):
    """Shows the steps of a long command on stderr and records their durations.

    Each step is one line when it is done; on a terminal the running one is shown too.

    Args:
        expected: as of :class:`kdcmae.progress.Steps`.
    """

    def __init__(self, *, expected: Mapping[str, float] | None = None) -> None:
        super().__init__(_show, expected=expected)


def _show(step: Progress) -> None:
    if step.state == "running":
        status(f"  {step.name} ...{_how_far(step)}")
    elif step.state == "done":
        note(f"  {step.name:<28} {step.seconds:6.1f} s")


def _how_far(step: Progress) -> str:
    """Such as " 3 of 12, about 20 s left"; empty if unknown."""
    if step.parts is not None:
        return f" {step.parts.done} of {step.parts.total} done, about {step.parts.left_s:.0f} s left"
    if step.count is None or step.remaining_s is None:
        return ""
    return f" {step.index} of {step.count}, about {step.remaining_s:.0f} s left"
