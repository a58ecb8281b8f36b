"""``kdcmae-compile inspect``: what an engine is, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.compile.inspection import inspect_engine

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Show what an ENGINE folder holds. Needs no device, loads no engine library, checks no digest: see verify."""
    facts = inspect_engine(engine)
    if as_json:
        print_json(facts)
        return
    console = Console(highlight=False, markup=False)
    console.print(_summary(facts))
    console.print(_operations("Operations in the file", facts["graph"]))
    if "frontend" in facts:
        console.print(_operations("Operations in the frontend", facts["frontend"]))


def _summary(facts: dict[str, Any]) -> Table:
    table = Table(title=f"{facts['engine']}: {facts['graph']['format']}", title_justify="left", show_header=False)
    model, batch = facts["model"], facts["batch"]
    table.add_row("model", f"{model['name']}, {model['parameters'] / 1e6:.1f} M parameters, {model['modality']}")
    table.add_row("from", model["source"])
    for role in ("inputs", "outputs"):
        for spec in facts[role]:
            table.add_row(role[:-1], f"{spec['name']} {spec['dtype']} ({', '.join(map(str, spec['shape']))})")
    table.add_row("batch", f"{batch['min']} to {batch['max']}, tuned for {batch['opt']}")
    table.add_row("labels", str(facts["labels"]))
    table.add_row("precision", f"asked {facts['precision'].get('asked')}")
    if read_from := facts["precision"].get("read_from"):
        table.add_row("  as read from", read_from)
    for claim in facts["precision"].get("claims", ()):
        executed = ", ".join(f"{count} in {precision}" for precision, count in claim["executed"].items())
        found = f"executes {executed}" if executed else "not checked on this machine"
        table.add_row(f"  {claim['layers']}", f"claimed {claim['claimed']}, {found}")
    table.add_row("needs", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()))
    table.add_row("options", ", ".join(f"{name}={value}" for name, value in facts["options"].items()))
    table.add_row("ladder", ", ".join(f"{rung['name']} {rung['status']}" for rung in facts["parity"]))
    table.add_row("built", f"{facts['created']} by kdcmae {facts['kdcmae']}")
    for name, size in facts["sizes"].items():
        table.add_row("file", f"{name}, {size:,} bytes")
    return table


def _operations(title: str, graph: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("type", "count", "of them by type of the first output"):
        table.add_column(column)
    for kind, counts in graph["operations"].items():
        by_type = ", ".join(f"{count} {precision or 'not declared'}" for precision, count in counts.items())
        table.add_row(kind, str(sum(counts.values())), by_type)
    return table
