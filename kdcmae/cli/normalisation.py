"""Options for the input statistics and the sound channel of a checkpoint's training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kdcmae.errors import ConfigError

__all__ = ["NAMES", "statistics_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = {
    "fbank_mean": ("NUMBER", "Mean of the log-mel values that a checkpoint learned from."),
    "fbank_std": ("NUMBER", "Their standard deviation; twice it where its trainer divided by 2 * std."),
    "image_mean": ("R,G,B", "Mean of the colours, in [0, 1], that a checkpoint learned from."),
    "image_std": ("R,G,B", "Their standard deviations."),
}
NAMES = (*_OPTIONS, "mono")
"""Of the parameters: fields of the preprocessing and of a model's configuration."""


_DEFAULT = "what the file says, or as published"


class _Statistic(click.ParamType):
    """A field of the preprocessing: a number, or three with commas between them."""

    name = "statistic"

    def __init__(self, field: str) -> None:
        self.field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from kdcmae.runtime.preprocessing import Preprocessing

        published = getattr(Preprocessing, self.field)
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
            parsed: Any = numbers if isinstance(published, tuple) else numbers[0] if len(numbers) == 1 else numbers
            Preprocessing(**{self.field: parsed})
        except (ValueError, ConfigError):
            kind = "positive " if self.field.endswith("_std") else ""
            wanted = f"three {kind}numbers" if isinstance(published, tuple) else f"a {kind}number"
            shown = ",".join(map(str, published)) if isinstance(published, tuple) else published
            self.fail(f"{value!r} must be {wanted}, such as {shown} (published).", param, ctx)
        return parsed


def statistics_options(command: Command) -> Command:
    """Add the options; the command gets parameters of these :data:`NAMES`, None where not given."""
    command = click.option(
        "--mono",
        type=click.Choice(["mean", "left"]),
        help="How several channels became one in the sound that a checkpoint learned from; published: left.",
        show_default=_DEFAULT,
    )(command)
    for field, (metavar, text) in reversed(_OPTIONS.items()):
        option = click.option(
            f"--{field.replace('_', '-')}",
            type=_Statistic(field),
            metavar=metavar,
            help=text,
            show_default=_DEFAULT,
        )
        command = option(command)
    return command
