"""``kdcmae-compile diff``: what two engines do not have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.compile.comparison import compare_outputs, differences
from kdcmae.terminal import say, table

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("one", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
@json_option
def command(one: Path, other: Path, as_json: bool) -> None:
    """Compare two engine folders: settings, versions, precision, ladder, sizes, and outputs where both run here."""
    facts = {
        "one": str(one),
        "other": str(other),
        "differences": differences(one, other),
        **compare_outputs(one, other),
    }
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    rows = ((row["field"], _short(row["one"]), _short(row["other"])) for row in facts["differences"])
    say(table(("field", facts["one"], facts["other"]), rows, title="Differences"))
    for name, compared in facts["outputs"].items():
        error = "not finite" if compared["error"] is None else f"{compared['error']:.1e} of its spread"
        say(f"{name} from the same inputs: differs by {error}, cosine {compared['cosine']:.6f}")
    if facts["note"]:
        say(facts["note"])


def _short(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
