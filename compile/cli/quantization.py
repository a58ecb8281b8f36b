"""The options of int8 and fp8, shared by the commands that build an engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import Number
from kdcmae.data.avsynth.naming import names_avsynth
from kdcmae.errors import ConfigError

__all__ = ["quantization_options"]

_OPTIONS = (
    click.option(
        "--calibration",
        metavar="CLIPS|avsynth:N",
        default="avsynth:32",
        show_default=True,
        help="Clips that int8 and fp8 learn their ranges from: a manifest, .tar shards or a folder of clips like those "
        "that the model was trained on.",
    ),
    click.option(
        "--max-drop",
        type=Number(),
        help="Top-1, or mAP of a multi-label model, that int8 and fp8 may lose, in percentage points, at the upper end "
        "of its 95 % interval: layers stay in floating point until it holds.",
    ),
    click.option(
        "--evaluation",
        metavar="MANIFEST|avsynth:N",
        default="avsynth:1000",
        show_default=True,
        help="Held-out clips with the model's labels, a manifest or .tar shards: half of them choose, for --max-drop "
        "and --budget-ms, and half report.",
    ),
)


def quantization_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as ``quantization``: fields of the settings."""

    @functools.wraps(command)
    def bundled(*, calibration: str, max_drop: float | None, evaluation: str, **others: Any) -> Any:
        found = {
            "calibration": _data("--calibration", calibration),
            "evaluation": _data("--evaluation", evaluation),
            "max_drop": max_drop,
        }
        return command(quantization=found, **others)

    for option in reversed(_OPTIONS):
        bundled = option(bundled)
    return bundled


def _data(option: str, given: str) -> str | Path:
    """A file or a folder counts in the cache by what it holds.

    Raises:
        ConfigError: there is no such file or folder, and it does not name clips of AVSynth.
    """
    if names_avsynth(given):
        return given
    if not Path(given).exists():
        raise ConfigError(f"{option} {given}: no such file or folder, and not avsynth or avsynth:CLIPS")
    return Path(given)
