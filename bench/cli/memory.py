"""``kdcmae-bench memory``: what building engines takes of memory."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish
from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, Steps, json_option

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
    help="JSON.",
    show_default="bench/results/memory-PRESET.json",
)
@json_option
def command(preset: str, readme: Path | None, output: Path | None, as_json: bool) -> None:
    """Build an untrained model for every target and precision that a CPU can build, and watch what that takes.

    Peaks of the build and of what it starts, a compiler for instance, by step; the table has the largest. Linux only.
    The builds of the base preset take a quarter of an hour.
    """
    from kdcmae.bench.studies.memory import BEGIN, END, render, run_memory_benchmark

    report = run_memory_benchmark(preset, step=Steps())
    path = output or RESULTS / f"memory-{preset}.json"
    publish(report, render(report), output=path, readme=readme, markers=(BEGIN, END), as_json=as_json)
