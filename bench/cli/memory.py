"""``kdcmae-bench memory``: what building engines takes of memory."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.files import RESULTS, write_json
from kdcmae.cli.common import KdcmaeCommand, Steps, exit_on_sigterm, json_option, note, print_json

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.option(
    "--preset", type=click.Choice(["base", "small", "tiny"]), default="base", show_default=True, help="Of the model."
)
@click.option(
    "--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Also write the table there."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON.  [default: bench/results/memory-PRESET.json]",
)
@json_option
def command(preset: str, readme: Path | None, output: Path | None, as_json: bool) -> None:
    """Build an untrained model for every target and precision that a CPU can build, and watch what that takes.

    Peaks of the build and of what it starts, a compiler for instance, by step; the table has the largest. Linux only.
    The builds of the base preset take a quarter of an hour.
    """
    exit_on_sigterm()
    from kdcmae.bench.markers import replace_between
    from kdcmae.bench.memory import BEGIN, END, render, run_memory_benchmark

    report = run_memory_benchmark(preset, step=Steps())
    write_json(report, output or RESULTS / f"memory-{preset}.json")
    table = render(report)
    if readme is not None:
        note(f"{readme}: {'updated' if replace_between(readme, BEGIN, END, table) else 'up to date'}")
    if as_json:
        print_json(report)
    else:
        click.echo(table)
