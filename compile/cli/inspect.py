"""``kdcmae-compile inspect``: what an engine is, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.compile.inspection import inspect_engine
from kdcmae.runtime.facts import describe_parts
from kdcmae.terminal import say, table

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
    say(_summary(facts))
    for name, part in facts.get("parts", {"": facts}).items():
        of = f" of part {name}" if name else ""
        say(_operations(f"Operations in the file{of}", part["graph"]))
        if "frontend" in part:
            say(_operations(f"Operations in the frontend{of}", part["frontend"]))


def _summary(facts: dict[str, Any]) -> str:
    rows: list[tuple[str, str]] = []

    def add(name: str, value: str) -> None:
        rows.append((name, value))

    model, batch = facts["model"], facts["batch"]
    add("model", f"{model['name']}, {model['parameters'] / 1e6:.1f} M parameters, {model['modality']}")
    add("from", model["source"])
    if assumed := model.get("assumed"):
        add("assumed", assumed)
    for role in ("inputs", "outputs"):
        for spec in facts[role]:
            add(role[:-1], f"{spec['name']} {spec['dtype']} ({', '.join(map(str, spec['shape']))})")
    add("batch", f"{batch['min']} to {batch['max']}, tuned for {batch['opt']}")
    add("labels", str(facts["labels"]))
    add("precision", f"asked {facts['precision'].get('asked')}")
    if read_from := facts["precision"].get("read_from"):
        add("  as read from", read_from)
    for claim in facts["precision"].get("claims", ()):
        executed = ", ".join(f"{count} in {precision}" for precision, count in claim["executed"].items())
        executes = f"executes {executed}" if executed else "not checked on this machine"
        if claim.get("checked"):
            executes = f"{claim['checked']}; where it was built: {executed or 'compiled into layers of other classes'}"
        add(f"  {claim['layers']}", f"claimed {claim['claimed']}, {executes}")
    add("needs", ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()))
    for name, part in describe_parts(facts["options"]).items():
        add("part", f"{name}: {part}")
    options = {name: value for name, value in facts["options"].items() if name != "parts"}
    add("options", ", ".join(f"{name}={value}" for name, value in options.items()))
    add("ladder", ", ".join(f"{rung['name']} {rung['status']}" for rung in facts["parity"]))
    add("built", f"{facts['created']} by kdcmae {facts['kdcmae']}")
    for name, size in facts["sizes"].items():
        add("file", f"{name}, {size:,} bytes")
    return table((), rows, title=f"{facts['engine']}: {facts['graph']['format']}")


def _operations(title: str, graph: dict[str, Any]) -> str:
    rows = (
        (
            kind,
            str(sum(counts.values())),
            ", ".join(f"{count} {precision or 'not declared'}" for precision, count in counts.items()),
        )
        for kind, counts in graph["operations"].items()
    )
    return table(("type", "count", "of them by type of the first output"), rows, title=title, right=(1,))
