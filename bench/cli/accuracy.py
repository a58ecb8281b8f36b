"""``kdcmae-bench accuracy``: the loss of accuracy of each engine."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish, publishing_options, report_file
from kdcmae.cli.common import KdcmaeCommand, note

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("engines", nargs=-1, metavar="ENGINE...")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint that the engines were compiled from.",
    show_default="the shipped model",
)
@click.option("--clips", type=click.IntRange(min=1), default=600, show_default=True, help="Of AVSynth's test split.")
@publishing_options("accuracy.json")
def command(
    engines: tuple[str, ...],
    checkpoint: Path | None,
    clips: int,
    output: Path | None,
    readme: Path | None,
    as_json: bool,
) -> None:
    """Accuracy on held-out clips of a checkpoint and of engines compiled from it, and the drop of each.

    A row for each use that a model can serve: sound and picture, one of them alone (an engine needs a variant for
    that; FOLDER@audio measures that variant alone), and one of them silent or black. Agreement is with PyTorch in the
    same use.

    \b
    kdcmae-bench accuracy out/ov-fp32 out/ov-int8 --readme
    """
    from kdcmae.assets import default_checkpoint
    from kdcmae.bench.studies.accuracy import SECTION, measure_accuracy

    report = measure_accuracy(checkpoint or default_checkpoint(), engines, clips=clips, on_subject=note)
    publish(SECTION, report, output=report_file(output, "accuracy.json"), readme=readme, as_json=as_json)
