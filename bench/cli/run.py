"""``kdcmae-bench SUBJECT...``: compare engine folders and checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.checked import self_check, self_check_option
from kdcmae.bench.report.files import write_json
from kdcmae.cli.common import LARGEST_BATCH, KdcmaeCommand, Number, Steps, json_option, note, print_json, thread_count

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option(
    "--batch",
    type=click.IntRange(1, LARGEST_BATCH),
    default=1,
    show_default=True,
    metavar="N",
    help="Samples per call.",
)
@click.option(
    "--threads",
    type=thread_count,
    metavar="N",
    help="CPU threads per subject.",
    show_default="all usable CPUs",
)
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Timed seconds per subject, in at least ten windows.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=Number(min=0),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds each subject runs before it is timed.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Number(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds a subject may take for one step before it counts as hung.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON to this file.")
@self_check_option("mark")
@json_option
def command(
    subjects: tuple[str, ...],
    batch: int,
    threads: int | None,
    seconds: float,
    warm_up_s: float,
    timeout_s: float,
    output: Path | None,
    policy: str,
    as_json: bool,
) -> None:
    """Compare engine folders and checkpoints: speed, start-up, memory, and whether they compute the same.

    A SUBJECT is an engine folder (FOLDER@audio for a variant in it), a finetuned checkpoint (PyTorch eager, float32,
    CPU), or preset:base, preset:small, preset:tiny (the untrained model that kdcmae-compile --random-weights compiles).
    Peers, which other libraries offer for the same model, are PEER:MODEL or PEER:ENGINE; kdcmae-bench peers lists them.

    Each subject has a process of its own, pinned to its CPUs. They take turns in short windows until the medians are
    known well, so that noise hits all alike, and outputs are compared before anything is timed: with the first PyTorch
    model, or else the first subject. Those that know AVSynth's classes classify its test clips at the end.

    \b
    kdcmae-bench out/openvino-bf16 model.pth
    kdcmae-bench out/openvino-fp32 out/openvino-bf16 preset:base --json

    Exit code: 1 where a subject failed or disagrees with the reference, or where the machine is not fit for measuring;
    3 where none can run on this machine.
    """
    from kdcmae import host
    from kdcmae.bench.report.records import Settings
    from kdcmae.bench.report.terminal import print_report
    from kdcmae.bench.run.interleaved import run_benchmark
    from kdcmae.bench.run.sources import check_source

    for subject in subjects:
        check_source(subject)
    settings = Settings(
        batch=batch,
        threads=threads or host.usable_cpus(),
        seconds=seconds,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
    )
    note(f"kdcmae-bench: {', '.join(subjects)}; batch {batch}, threads {settings.threads}")
    step = Steps()
    checked = self_check(step, settings.threads, policy)
    report = run_benchmark(subjects, settings, step=step, self_check=checked)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if output is not None:
        write_json(report.to_dict(), output)
    raise SystemExit(report.exit_code)
