"""``kdcmae-bench suite``: every engine, peer and case, for the shipped model and the base preset."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.checked import self_check, self_check_option
from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, Steps, json_option, note, print_json, thread_count

__all__ = ["command"]

_MODELS = ("shipped", "base")
_COMPILING_S = 1800  # the first inference of torch.compile, of a large model


@click.command(cls=KdcmaeCommand)
@click.option(
    "--model",
    "models",
    type=click.Choice(_MODELS),
    multiple=True,
    default=_MODELS,
    show_default="all",
    help="Model to measure; repeat the option for several.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Every precision and form of every target, however long it takes."
)
@click.option("--threads", type=thread_count, metavar="N", help="CPU threads.", show_default="all usable CPUs")
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/bench"),
    show_default=True,
    help="Folder of engines, clips and answers; missing engines are compiled.",
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Folder of the report and its page; with --all its subfolder all.",
)
@self_check_option("refuse")
@json_option
def command(
    models: tuple[str, ...],
    everything: bool,
    threads: int | None,
    work: Path,
    results: Path,
    policy: str,
    as_json: bool,
) -> None:
    """Benchmark the shipped model and the base preset on this machine, and store the report.

    Every target is a row, also where it cannot run here. Engines are compiled once and used again while they are of
    the same weights; measuring takes about ten minutes.

    \b
    kdcmae-bench suite                    # measure, write bench/results/MACHINE/NNNN-*.json and MACHINE.html
    kdcmae-bench suite --all              # every precision and form of every target; into bench/results/all
    kdcmae-bench compare                  # the last two runs: what became slower
    kdcmae-bench readme                   # the newest results into the README

    Exit code: 1 where a subject failed or disagrees with the reference, or the machine is not fit for measuring.
    """
    from kdcmae import host
    from kdcmae.bench.report.history import ALL, store_report
    from kdcmae.bench.report.records import Settings
    from kdcmae.bench.report.terminal import print_report
    from kdcmae.bench.suite.full import run_suite
    from kdcmae.bench.suite.plan import plan_model

    step = Steps()
    folder, timeout_s = (results / ALL, _COMPILING_S) if everything else (results, 300)
    settings = Settings(batch=1, threads=threads or host.usable_cpus(), seconds=0, warm_up_s=0.5, timeout_s=timeout_s)
    plans = [plan_model(name, everything=everything) for name in models]
    checked = self_check(step, settings.threads, policy)
    report = run_suite(plans, settings, work, step=step, self_check=checked)
    path = store_report(report, folder)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    note(f"stored as {path}, page {path.parent.with_suffix('.html')}")
    raise SystemExit(report.exit_code)
