"""``kdcmae-bench ablation``: the gain of each part of the objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kdcmae.bench.cli.publishing import publish, publishing_options, report_file
from kdcmae.bench.studies.ablation.plan import ROWS
from kdcmae.cli.common import KdcmaeCommand, note, thread_count

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs per row.")
@click.option(
    "--row",
    "names",
    type=click.Choice([row.name for row in ROWS]),
    multiple=True,
    help="Of the table.",
    show_default="all",
)
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at a time.")
@click.option("--threads", type=thread_count, default=1, show_default=True, help="CPU threads per run.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/ablation"),
    show_default=True,
    help="Folder of the runs. Finished runs are reused, interrupted ones resume.",
)
@publishing_options("ablation.json")
def command(
    seeds: int,
    names: tuple[str, ...],
    processes: int,
    threads: int,
    folder: Path,
    output: Path | None,
    readme: Path | None,
    as_json: bool,
) -> None:
    """Pretrain and finetune with the parts of the objective added one at a time, over several seeds.

    Rows: from scratch; CAV-MAE; + a second view; + complementary masks; + distillation, which is KDC-MAE. All have
    the same budgets, smaller than those of the recipes avsynth-pretrain and avsynth-finetune. Every run is measured
    on held-out clips of AVSynth: accuracy, and after pretraining retrieval and localisation.

    \b
    kdcmae-bench ablation --readme
    """
    from kdcmae.bench.studies.ablation.plan import AblationSettings
    from kdcmae.bench.studies.ablation.section import SECTION
    from kdcmae.bench.studies.ablation.suite import run_ablation

    settings = AblationSettings(seeds=tuple(range(seeds)))
    rows = tuple(row for row in ROWS if not names or row.name in names)
    report = run_ablation(settings, folder, processes=processes, threads=threads, rows=rows, on_cell=_tell)
    publish(SECTION, report, output=report_file(output, "ablation.json"), readme=readme, as_json=as_json)


def _tell(result: dict[str, Any], done: int, total: int) -> None:
    accuracies = ", ".join(f"{100 * held['both']:.1f} % ({budget})" for budget, held in result["accuracy"].items())
    note(
        f"[{done}/{total}] {result['row']}, seed {result['seed']}: accuracy {accuracies} "
        f"after {result['seconds']['total']:.0f} s"
    )
