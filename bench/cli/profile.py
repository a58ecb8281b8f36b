"""``kdcmae-bench profile``: time of an engine's layers."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish, publishing_options, report_file
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, thread_count

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...", type=click.Path(path_type=Path))
@click.option("--threads", type=thread_count, metavar="N", help="CPU threads.", show_default="all usable CPUs")
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Of inferences, and of each ceiling.",
)
@publishing_options("profile.json")
def command(
    engines: tuple[Path, ...],
    threads: int | None,
    seconds: float,
    output: Path | None,
    readme: Path | None,
    as_json: bool,
) -> None:
    """Show what the layers of OpenVINO engines take, by class and executed precision, and the share of the ceiling.

    The ceiling is a large matrix product in the engine's precision on the same CPUs, measured before and after.

    \b
    kdcmae-bench profile out/ov-int8 out/ov-int8-half --readme
    """
    from kdcmae.bench.studies.profile import SECTION, profile_engines

    report = profile_engines(engines, threads=threads, seconds=seconds, step=Steps())
    publish(SECTION, report, output=report_file(output, "profile.json"), readme=readme, as_json=as_json)
