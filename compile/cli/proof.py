"""The options that say what an engine must prove, shared by the commands that build one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import Number
from kdcmae.compile.settings import Expectation
from kdcmae.errors import ConfigError

__all__ = ["expect_options", "proof_options"]

_OPTIONS = (
    click.option(
        "--execute-as",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="Accept that the device executes matrix products in this precision instead.",
    ),
    click.option(
        "--max-error",
        type=Number(),
        help="Largest error allowed, relative to a sample's spread; to tighten.",
        show_default="by precision",
    ),
    click.option(
        "--min-cosine", type=Number(), help="Smallest cosine allowed; to tighten.", show_default="by precision"
    ),
    click.option(
        "--min-agreement",
        type=Number(),
        help="Smallest share of equal first classes allowed; to tighten.",
        show_default="by precision",
    ),
    click.option(
        "--clips",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Your clips to prove the engine on, before made ones fill up: a video file, a manifest, .tar shards "
        "or a folder; may be repeated.",
    ),
    click.option(
        "--proof-clips",
        type=click.IntRange(min=1),
        help="How many clips to prove the engine on; made ones fill up to it. 64 by default, and fewer of a model so "
        "large that they would take more than 30 % of the build: 16 of the base model.",
    ),
    click.option(
        "--no-stored-clips",
        is_flag=True,
        help="Keep your --clips out of the engine's folder. The self-test stores up to six of them where the engine is "
        "made for yours and computes no made clip within its limits.",
    ),
)
_LIMITS = ("max_error", "min_cosine", "min_agreement")


def proof_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as ``proof``: fields of the settings of a build."""

    @functools.wraps(command)
    def bundled(
        *, execute_as: str | None, max_error: float | None, min_cosine: float | None, min_agreement: float | None,
        clips: tuple[Path, ...], proof_clips: int | None, no_stored_clips: bool, **others: Any,
    ) -> Any:  # fmt: skip
        limits = dict(zip(_LIMITS, (max_error, min_cosine, min_agreement), strict=True))
        proof = {
            "execute_as": execute_as or "",
            "limits": {name: limit for name, limit in limits.items() if limit is not None},
            "clips": clips,
            "proof_clips": proof_clips,
            "store_clips": not no_stored_clips,
        }
        return command(proof=proof, **others)

    for option in reversed(_OPTIONS):
        bundled = option(bundled)
    return bundled


_EXPECT_OPTIONS = (
    click.option(
        "--expect",
        type=click.Path(path_type=Path),
        help="What your own model computes: JSON lines of a clip (or inputs, an .npz) and its logits or label. The "
        "loaded model must compute the same, or nothing is built.",
    ),
    click.option(
        "--expect-from",
        metavar="SCRIPT.py:FUNCTION",
        help="The same, computed now by a function of yours: function(audio=, image=) on prepared tensors returns "
        "logits. This runs the script.",
    ),
)


def expect_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as ``expectation``, None where neither is given."""

    @functools.wraps(command)
    def bundled(*, expect: Path | None, expect_from: str | None, **others: Any) -> Any:
        if expect is not None and expect_from is not None:
            raise ConfigError("give either --expect FILE or --expect-from SCRIPT.py:FUNCTION, not both")
        expectation = None if expect is None else Expectation(path=expect)
        if expect_from is not None:
            expectation = Expectation.of_function(expect_from)
        return command(expectation=expectation, **others)

    for option in reversed(_EXPECT_OPTIONS):
        bundled = option(bundled)
    return bundled
