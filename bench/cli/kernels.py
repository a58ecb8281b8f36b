"""``kdcmae-bench kernels``: the Triton kernels and the pretraining step against every alternative."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from kdcmae.bench.report.files import RESULTS, write_json
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, print_json

if TYPE_CHECKING:
    from kdcmae.bench.kernels.schema import Kind, Report

__all__ = ["command"]

_KERNEL_CASES = ("attention", "patch-embedding", "step")


@click.command(cls=KdcmaeCommand)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="Device to measure.", show_default="cuda")
@click.option(
    "--case",
    "kinds",
    type=click.Choice(_KERNEL_CASES),
    multiple=True,
    default=_KERNEL_CASES,
    show_default="all",
    help="Cases to measure; repeat the option for several.",
)
@click.option("--quick", is_flag=True, help="Tiny sizes, for a dry run; on the CPU if there is no GPU.")
@click.option("--compile", "compiled", is_flag=True, help="Run the pretraining step through torch.compile.")
@click.option(
    "--minutes",
    type=Number(min=0, min_open=True),
    default=6.0,
    show_default=True,
    metavar="M",
    help="Length of the whole run; slow calls can make it longer.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the JSON.",
    show_default="bench/results/kernels-DEVICE.json, unless --case, --compile or --quick",
)
@json_option
def command(
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
    backward, without the optimiser. Results are stored after every case.

    \b
    kdcmae-bench kernels                            # on a GPU
    kdcmae-bench kernels --device cpu --case step   # what a CPU gains
    TRITON_INTERPRET=1 kdcmae-bench kernels --quick --device cpu

    Exit code: 1 where our own code failed or is wrong, 3 where this machine has no GPU.
    """
    from kdcmae.bench.kernels.report import print_report
    from kdcmae.bench.kernels.schema import Settings
    from kdcmae.bench.kernels.suite import default_device, run_kernel_benchmark, slug

    settings = Settings(
        device=device or default_device(quick=quick),
        kinds=kinds,
        quick=quick,
        compiled=compiled,
        minutes=minutes,
        rounds=1 if quick else 10,
    )
    is_default = not quick and not compiled and set(kinds) == set(_KERNEL_CASES)

    def store(report: Report) -> None:
        path = output or (RESULTS / f"kernels-{slug(report.device['name'])}.json" if is_default else None)
        if path is not None:
            write_json(report.to_dict(), path)

    report = run_kernel_benchmark(settings, step=Steps(), store=store)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    raise SystemExit(report.exit_code)
