"""``kdcmae-bench``: engines and checkpoints side by side, with honest statistics."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kdcmae.cli.common import KdcmaeGroup, Steps, exit_on_sigterm, json_option, note, print_json

if TYPE_CHECKING:
    from kdcmae.bench.kernels.schema import Kind, Report

__all__ = ["main"]

_DEFAULT_COMMAND = "run"
_KERNEL_CASES = ("attention", "patch-embedding", "step")
_RESULTS = Path("bench/results")


class _DefaultCommandGroup(KdcmaeGroup):
    """A group that takes anything but the name of a command as the arguments of its default command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The default command's help under the group's name, then the other commands."""
        default = self.commands[_DEFAULT_COMMAND]
        with click.Context(default, info_name=ctx.info_name, **self.context_settings) as default_ctx:
            default.format_help(default_ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=_DefaultCommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Benchmark engines and checkpoints."""


@main.command(_DEFAULT_COMMAND, hidden=True)
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Samples per call."
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads per subject.  [default: all usable CPUs]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Timed seconds per subject, in at least ten windows.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds each subject runs before it is timed.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds a subject may take for one step before it counts as hung.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the JSON to this file.")
@json_option
def run(
    subjects: tuple[str, ...],
    batch: int,
    threads: int | None,
    seconds: float,
    warm_up_s: float,
    timeout_s: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare engine folders and checkpoints: speed, start-up, memory, and whether they compute the same.

    A SUBJECT is an engine folder, a finetuned checkpoint (PyTorch eager, float32, CPU), or preset:base,
    preset:small, preset:tiny (the untrained model that kdcmae-compile --random-weights compiles).

    Each subject has a process of its own. They take turns in short windows, so that noise hits all alike, and
    outputs are compared before anything is timed: with the first PyTorch model, or else the first subject.

    \b
    kdcmae-bench out/openvino-bf16 model.pth
    kdcmae-bench out/openvino-fp32 out/openvino-bf16 preset:base --json

    Exit code: 1 where a subject failed or disagrees with the reference, 3 where none can run on this machine.
    """
    from kdcmae.bench.environment import usable_cpus
    from kdcmae.bench.report import print_report
    from kdcmae.bench.schema import Settings
    from kdcmae.bench.subjects import check_source
    from kdcmae.bench.suite import run_benchmark

    exit_on_sigterm()
    for subject in subjects:
        check_source(subject)
    settings = Settings(
        batch=batch,
        threads=threads or usable_cpus(),
        seconds=seconds,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
    )
    note(f"kdcmae-bench: {', '.join(subjects)}; batch {batch}, threads {settings.threads}")
    report = run_benchmark(subjects, settings, step=Steps())
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if output is not None:
        _write(report.to_dict(), output)
    raise SystemExit(report.exit_code)


@main.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to measure.  [default: cuda]")
@click.option(
    "--case",
    "kinds",
    type=click.Choice(_KERNEL_CASES),
    multiple=True,
    default=_KERNEL_CASES,
    show_default="all",
    help="What to measure; give it several times for several.",
)
@click.option("--quick", is_flag=True, help="Tiny sizes, for a dry run: on the CPU where there is no GPU.")
@click.option("--compile", "compiled", is_flag=True, help="Run the pretraining step through torch.compile.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=6.0,
    show_default=True,
    metavar="M",
    help="What the run should take in all; slow calls can make it longer.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the JSON goes.  [default: bench/results/kernels-DEVICE.json, unless --case, --compile or --quick]",
)
@json_option
def kernels(
    device: Literal["cuda", "cpu"] | None,
    kinds: tuple[Kind, ...],
    quick: bool,
    compiled: bool,
    minutes: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check and time the Triton kernels, and the whole pretraining step, against every alternative.

    Every contender is compared with float64 before anything is timed: forward, backward and both, plain and from a
    CUDA graph, with a warm and a cold cache, beside the ceilings of this device. The pretraining step is forward and
    backward, without the optimiser. Results are kept after every case.

    \b
    kdcmae-bench kernels                            on a GPU
    kdcmae-bench kernels --device cpu --case step   what a CPU gains
    TRITON_INTERPRET=1 kdcmae-bench kernels --quick --device cpu

    Exit code: 1 where our own code failed or is wrong, 3 where this machine has no GPU.
    """
    from kdcmae.bench.kernels.report import print_report
    from kdcmae.bench.kernels.schema import Settings
    from kdcmae.bench.kernels.suite import default_device, run_kernel_benchmark, slug

    exit_on_sigterm()
    settings = Settings(
        device=device or default_device(quick=quick),
        kinds=kinds,
        quick=quick,
        compiled=compiled,
        minutes=minutes,
        rounds=1 if quick else 10,
    )
    is_default = not quick and not compiled and set(kinds) == set(_KERNEL_CASES)

    def keep(report: Report) -> None:
        path = output or (_RESULTS / f"kernels-{slug(report.device['name'])}.json" if is_default else None)
        if path is not None:
            _write(report.to_dict(), path)

    report = run_kernel_benchmark(settings, step=Steps(), keep=keep)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    raise SystemExit(report.exit_code)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=Path("README.md"))
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=_RESULTS,
    show_default=True,
    help="Where kernels-*.json lie.",
)
def readme(file: Path, results: Path) -> None:
    """Write the newest kernel results into a README, between its two markers."""
    from kdcmae.bench.kernels.readme import update_readme

    note(f"{file}: {'updated' if update_readme(file, results) else 'up to date'}")


def _write(report: dict[str, Any], path: Path) -> None:
    """Write the JSON atomically: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
