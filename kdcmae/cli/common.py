"""What the command lines share: kinds of commands, consoles and JSON output.

Results go to stdout; progress, notes and errors go to stderr, so that ``--json`` leaves exactly one JSON
object on stdout.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kdcmae.cli.commands import KdcmaeCommand, KdcmaeGroup, LazyGroup, Number
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
    help="Of a checkpoint that holds both: the weights as trained, or their moving average.",
    show_default="the only ones there",
)

LARGEST_BATCH = 4096  # a build makes samples of that size, in float32

thread_count = click.IntRange(1, 4096)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    say(json.dumps(document, indent=2, sort_keys=False))


class Steps:
    """Shows the steps of a long command on stderr and remembers what each took.

    Each step is one line when it is done; on a terminal the running one is shown too.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one step.

        Args:
            name: what is being done, such as ``"export to ONNX"``.
        """
        start = time.perf_counter()
        status(f"  {name} ...")
        yield
        self.seconds[name] = time.perf_counter() - start
        note(f"  {name:<28} {self.seconds[name]:6.1f} s")
