"""What times engines, models and kernels: ``kdcmae-bench SUBJECT...``, ``suite`` and ``kernels``; the list of peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from kdcmae.bench.report.files import RESULTS, slug, write_json
from kdcmae.cli.common import LARGEST_BATCH, KdcmaeCommand, Number, Steps, json_option, note, print_json, thread_count
from kdcmae.terminal import say, table

if TYPE_CHECKING:
    from kdcmae.bench.kernels.schema import Kind
    from kdcmae.bench.kernels.schema import Report as KernelReport
    from kdcmae.bench.report.records import Report, SelfCheck
    from kdcmae.bench.report.table import Block

__all__ = ["kernels", "peers", "run", "suite"]

Command = TypeVar("Command", bound=Callable[..., Any])
AnyReport = TypeVar("AnyReport", "Report", "KernelReport")

_MODELS = ("shipped", "base")
_KERNEL_CASES = ("attention", "patch-embedding", "step")
_COMPILING_S = 1800  # the first inference of torch.compile, of a large model
_FILE, _FOLDER = (click.Path(dir_okay=ok, file_okay=not ok, path_type=Path) for ok in (False, True))
_SECONDS, _SOME_SECONDS = Number(min=0), Number(min=0, min_open=True)


def _self_check_option(default: str) -> Callable[[Command], Command]:
    """``--self-check``; by default ``refuse``, ``mark`` or ``skip``."""
    return click.option(
        "--self-check",
        "policy",
        type=click.Choice(["refuse", "mark", "skip"]),
        default=default,
        help="If a known sleep and a known matrix product show that the clock is wrong or the machine busy: refuse to "
        "measure, or measure and mark the report. Or skip this check.",
    )


def _self_check(step: Steps, threads: int, policy: str) -> SelfCheck | None:
    """Check clock and machine.

    Raises:
        GateError: the clock is wrong or the machine busy, and the policy is to refuse.
    """
    from kdcmae import host
    from kdcmae.bench.machine.selfcheck import check_machine, require_sound

    if policy == "skip":
        return None
    with step("check clock and machine"):
        check = check_machine(host.cpu_numbers()[:threads], overridden=policy == "mark")
    require_sound(check)
    for problem in check.problems:
        note(f"  not fit for measuring: {problem}")
    return check


def _show(report: AnyReport, blocks: Callable[[AnyReport], Iterable[Block]], *, as_json: bool) -> None:
    from kdcmae.bench.report.rendering import print_blocks

    if as_json:
        print_json(report.to_dict())
    else:
        print_blocks(blocks(report))


@click.command(cls=KdcmaeCommand)
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT...")
@click.option("--batch", type=click.IntRange(1, LARGEST_BATCH), default=1, metavar="N", help="Samples per call.")
@click.option(
    "--threads", type=thread_count, metavar="N", help="CPU threads per subject.", show_default="all usable CPUs"
)
@click.option(
    "--seconds",
    type=_SOME_SECONDS,
    default=10.0,
    metavar="S",
    help="Timed seconds per subject, in at least ten windows.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=_SECONDS,
    default=1.0,
    metavar="S",
    help="Seconds each subject runs before it is timed.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=_SOME_SECONDS,
    default=300.0,
    metavar="S",
    help="Seconds a subject may take for one step before it counts as hung.",
)
@click.option("--output", type=_FILE, help="Also write the JSON to this file.")
@_self_check_option("mark")
@json_option
def run(
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
    from kdcmae.bench.report.summary import blocks
    from kdcmae.bench.run.interleaved import run_benchmark
    from kdcmae.bench.run.sources import check_source

    for subject in subjects:
        check_source(subject)
    threads = threads or host.usable_cpus()
    settings = Settings(batch=batch, threads=threads, seconds=seconds, warm_up_s=warm_up_s, timeout_s=timeout_s)
    note(f"kdcmae-bench: {', '.join(subjects)}; batch {batch}, threads {threads}")
    step = Steps()
    checked = _self_check(step, threads, policy)
    report = run_benchmark(subjects, settings, step=step, self_check=checked)
    _show(report, blocks, as_json=as_json)
    if output is not None:
        write_json(report.to_dict(), output)
    raise SystemExit(report.exit_code)


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
    type=_FOLDER,
    default=Path("out/bench"),
    help="Folder of engines, clips and answers; missing engines are compiled.",
)
@click.option(
    "--results", type=_FOLDER, default=RESULTS, help="Folder of the report and its page; with --all its subfolder all."
)
@_self_check_option("refuse")
@json_option
def suite(
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
    from kdcmae.bench.report.summary import blocks
    from kdcmae.bench.suite.full import run_suite
    from kdcmae.bench.suite.plan import plan_model

    step = Steps()
    folder, timeout_s = (results / ALL, _COMPILING_S) if everything else (results, 300)
    settings = Settings(batch=1, threads=threads or host.usable_cpus(), seconds=0, warm_up_s=0.5, timeout_s=timeout_s)
    plans = [plan_model(name, everything=everything) for name in models]
    checked = _self_check(step, settings.threads, policy)
    report = run_suite(plans, settings, work, step=step, self_check=checked)
    path = store_report(report, folder)
    _show(report, blocks, as_json=as_json)
    note(f"stored as {path}, page {path.parent.with_suffix('.html')}")
    raise SystemExit(report.exit_code)


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
    type=_SOME_SECONDS,
    default=6.0,
    metavar="M",
    help="Length of the whole run; slow calls can make it longer.",
)
@click.option(
    "--output",
    type=_FILE,
    help="File for the JSON.",
    show_default="bench/results/kernels-DEVICE.json, unless --case, --compile or --quick",
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
    backward, without the optimiser. Results are stored after every case.

    \b
    kdcmae-bench kernels                            # on a GPU
    kdcmae-bench kernels --device cpu --case step   # what a CPU gains
    TRITON_INTERPRET=1 kdcmae-bench kernels --quick --device cpu

    Exit code: 1 where our own code failed or is wrong, 3 where this machine has no GPU.
    """
    from kdcmae.bench.kernels.report import blocks
    from kdcmae.bench.kernels.schema import Settings
    from kdcmae.bench.kernels.suite import default_device, run_kernel_benchmark

    settings = Settings(
        device=device or default_device(quick=quick),
        kinds=kinds,
        quick=quick,
        compiled=compiled,
        minutes=minutes,
        rounds=1 if quick else 10,
    )
    is_default = not quick and not compiled and set(kinds) == set(_KERNEL_CASES)

    def store(report: KernelReport) -> None:
        path = output or (RESULTS / f"kernels-{slug(report.device['name'])}.json" if is_default else None)
        if path is not None:
            write_json(report.to_dict(), path)

    report = run_kernel_benchmark(settings, step=Steps(), store=store)
    _show(report, blocks, as_json=as_json)
    raise SystemExit(report.exit_code)


@click.command(cls=KdcmaeCommand)
@json_option
def peers(as_json: bool) -> None:
    """List the peers that engines and checkpoints can be benchmarked against.

    A peer is one Python file in bench/run/peers, or anywhere else: kdcmae-bench out/ov ./mine.py:out/ov.
    """
    from kdcmae.bench.run.peers import all_peers

    known = all_peers().values()
    if as_json:
        print_json({"peers": [{"name": peer.name, "runs": peer.runs, "needs": peer.needs} for peer in known]})
    else:
        say(table(("subject", "what it is", "needs"), [(peer.usage, peer.about, peer.needs) for peer in known]))
