"""The options that say what kind of engine is wanted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from kdcmae.cli.common import LARGEST_BATCH
from kdcmae.errors import ConfigError
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.cpu import CLASSES, describe_cpu, this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS

__all__ = ["engine_options", "parse_batch"]

_OPTIONS = (
    click.option(
        "--target",
        type=click.Choice(TARGETS),
        help="What to compile for; --budget-ms alone needs none, and takes openvino.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", *PRECISIONS]),
        default="auto",
        show_default=True,
        help="Of the matrix products; auto is the fastest floating one that the machine multiplies natively.",
    ),
    click.option(
        "--for",
        "machine",
        metavar=f"{'|'.join(CLASSES)}|FILE",
        help="Build for another CPU: its class, or what kdcmae doctor --json wrote there.",
        show_default="this machine's",
    ),
    click.option("--batch", default="1", show_default=True, metavar="N|MIN:OPT:MAX", help="Batch size, or a range."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="That aoti compiles for.", show_default="cpu"),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as ``engine``: fields of the settings of a build."""

    @functools.wraps(command)
    def bundled(
        *, target: str | None, precision: str, machine: str | None, batch: str, device: str | None, **others: Any
    ) -> Any:
        if target is None and others.get("folder") is None:  # the folder of an engine says what it is for
            if others.get("budget_ms") is None:
                raise click.UsageError("Missing option '--target'. Choose from: " + ", ".join(TARGETS))
            target = "openvino"
        cpu, chosen = describe_cpu(machine) if machine else this_cpu(), ""
        if precision == "auto" and target is not None:
            precision, chosen = fastest_floating(target, cpu=cpu, device=device or "")
        found = {
            "target": target,
            "precision": precision,
            "batch": parse_batch(batch),
            "cpu": cpu,
            "chosen": chosen,
            "device": device or "",
        }
        return command(engine=found, **others)

    for option in reversed(_OPTIONS):
        bundled = option(bundled)
    return bundled


def parse_batch(text: str) -> BatchRange:
    """``"8"`` or ``"1:8:64"`` as a range.

    Raises:
        ConfigError: anything else, sizes out of order, or a size that no memory holds.
    """
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ConfigError(f"--batch {text!r} is neither a size like 8 nor a range MIN:OPT:MAX like 1:8:64")
    if sizes[2] > LARGEST_BATCH:
        raise ConfigError(f"--batch {text!r} is too large: an engine is proven on batches of at most {LARGEST_BATCH}")
    return BatchRange(*sizes)
