"""The options that say where an engine goes and which models are in it, shared by the commands that build one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kdcmae.config import Modality
from kdcmae.errors import ConfigError

__all__ = ["output_options", "parse_modalities"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--output", type=click.Path(path_type=Path), help="Engine folder.", show_default="out/<target>-<precision>"
    ),
    click.option(
        "--modalities",
        default="",
        metavar="audiovisual,audio,video",
        help="Also for clips without picture or without sound, in the same folder.",
        show_default="all that was finetuned",
    ),
    click.option("--no-cache", is_flag=True, help="Build also what the cache holds, and store no copy there."),
)


def output_options(command: Command) -> Command:
    """Add the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_modalities(text: str) -> tuple[Modality, ...]:
    """``"audiovisual,audio,video"`` as the modalities that clips may have alone; nothing for an empty text.

    Raises:
        ConfigError: an unknown modality, or no audiovisual first.
    """
    first, *alone = text.split(",") if text else ["audiovisual"]
    if first != "audiovisual" or len(set(alone)) < len(alone) or not set(alone) <= {"audio", "video"}:
        raise ConfigError(f"--modalities {text!r} must be audiovisual, then audio, video or both, with commas")
    return tuple(alone)  # type: ignore[arg-type]
