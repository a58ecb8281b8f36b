"""``kdcmae-bench profile``: where an engine's time goes."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish
from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, thread_count

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
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS / "profile.json",
    show_default=True,
    help="Where the JSON goes.",
)
@click.option("--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Write the tables there.")
@json_option
def command(
    engines: tuple[Path, ...], threads: int | None, seconds: float, output: Path, readme: Path | None, as_json: bool
) -> None:
    """Show what the layers of OpenVINO engines take, by class and executed precision, and the share of the ceiling.

    The ceiling is a large matrix product in the engine's precision on the same CPUs, measured before and after.

    \b
    kdcmae-bench profile out/ov-int8 out/ov-int8-half --readme docs/measured.md
    """
    from kdcmae.bench.studies.profile import BEGIN, END, profile_engine, render

    step = Steps()
    report = {"engines": [profile_engine(one, threads=threads, seconds=seconds, step=step) for one in engines]}
    tables = "\n\n".join(render(one) for one in report["engines"])
    publish(report, tables, output=output, readme=readme, markers=(BEGIN, END), as_json=as_json)
