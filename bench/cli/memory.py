"""``kdcmae-bench memory``: memory that builds of engines need."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish, publishing_options, report_file
from kdcmae.cli.common import KdcmaeCommand, Steps

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.option(
    "--preset", type=click.Choice(["base", "small", "tiny"]), default="base", show_default=True, help="Of the model."
)
@publishing_options("memory-PRESET.json")
def command(preset: str, readme: Path | None, output: Path | None, as_json: bool) -> None:
    """Build an untrained model for every target and precision that a CPU can build, and watch what that takes.

    Peaks of the build and of what it starts, a compiler for instance, by step; the table has the largest. Linux only.
    The builds of the base preset take a quarter of an hour.
    """
    from kdcmae.bench.studies.memory import SECTION, run_memory_benchmark

    report = run_memory_benchmark(preset, step=Steps())
    publish(SECTION, report, output=report_file(output, f"memory-{preset}.json"), readme=readme, as_json=as_json)
