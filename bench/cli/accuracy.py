"""``kdcmae-bench accuracy``: what each engine and precision costs."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish
from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, json_option, note

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("engines", nargs=-1, metavar="ENGINE...")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="What they were compiled from.",
    show_default="the shipped model",
)
@click.option("--clips", type=click.IntRange(min=1), default=600, show_default=True, help="Of AVSynth's test split.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RESULTS / "accuracy.json",
    show_default=True,
    help="Where the JSON goes.",
)
@click.option("--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Write the table there.")
@json_option
def command(
    engines: tuple[str, ...],
    checkpoint: Path | None,
    clips: int,
    output: Path,
    readme: Path | None,
    as_json: bool,
) -> None:
    """Accuracy on held-out clips of a checkpoint and of engines compiled from it, and the drop of each.

    A row for each use that a model can serve: sound and picture, one of them alone (an engine needs a variant for
    that; FOLDER@audio measures that variant alone), and one of them silent or black. Agreement is with PyTorch in the
    same use.

    \b
    kdcmae-bench accuracy out/ov-fp32 out/ov-int8 --readme docs/measured.md
    """
    from kdcmae.assets import default_checkpoint
    from kdcmae.bench.studies.accuracy import BEGIN, END, measure_accuracy, render

    report = measure_accuracy(checkpoint or default_checkpoint(), engines, clips=clips, on_subject=note)
    publish(report, render(report), output=output, readme=readme, markers=(BEGIN, END), as_json=as_json)
