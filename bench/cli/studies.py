"""The studies: ``kdcmae-bench ablation``, ``accuracy``, ``keep``, ``memory``, ``profile`` and ``throughput``.

Each measures one thing, writes its report into the folder of results, and shows its part of the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from kdcmae.bench.cli.documents import sections
from kdcmae.bench.report.files import RESULTS, write_json
from kdcmae.bench.studies.ablation.plan import ROWS
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, note, print_json, thread_count
from kdcmae.errors import ConfigError
from kdcmae.presets import PRESETS

__all__ = ["ablation", "accuracy", "keep", "memory", "profile", "throughput"]

Study = Callable[..., dict[str, Any]]

_DEFAULT = Path()  # of --readme without a value
_FILE = click.Path(dir_okay=False, path_type=Path)
_PRESET = click.Choice(list(PRESETS))

_threads_option = click.option(
    "--threads", type=thread_count, metavar="N", help="CPU threads.", show_default="all usable CPUs"
)


def _publishes(output: str) -> Callable[[Study], Callable[..., None]]:
    """Adds ``--output``, ``--readme`` and ``--json`` to a function, and writes and prints the report that it returns.

    Args:
        output: name of the JSON file in the folder of results, with fields of the report in braces.
    """
    named = re.sub(r"{(\w+)[^}]*}", lambda field: field[1].upper(), output)

    def publishing(study: Study) -> Callable[..., None]:
        @click.option("--output", "file", type=_FILE, help="File of the JSON.", show_default=str(RESULTS / named))
        @click.option(
            "--readme",
            type=_FILE,
            is_flag=False,
            flag_value=_DEFAULT,
            metavar="[FILE]",
            help="Also write the tables between their markers in FILE; by default in docs/measured.md where there "
            "is one, or else in README.md.",
        )
        @json_option
        @wraps(study)
        def published(file: Path | None, readme: Path | None, as_json: bool, **options: Any) -> None:
            report = study(**options)
            _publish(report, file or RESULTS / output.format_map(report), readme, as_json=as_json)

        return published

    return publishing


def _publish(report: dict[str, Any], file: Path, readme: Path | None, *, as_json: bool) -> None:
    """Write a report, put its tables into the documentation if asked to, and print it as JSON or as tables.

    Raises:
        ConfigError: the documentation's file does not exist or does not have the markers.
    """
    from kdcmae.bench.report.publishing import default_file
    from kdcmae.bench.report.rendering import print_blocks

    (section,) = sections(report["kind"])
    write_json(report, file)
    if readme is not None:
        page = default_file() if readme == _DEFAULT else readme
        note(f"{page}: {'updated' if section.write(page, report) else 'up to date'}")
    if as_json:
        print_json(report)
    else:
        print_blocks(section.render(report))


@click.command(cls=KdcmaeCommand)
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="Runs per row.")
@click.option(
    "--row",
    "names",
    type=click.Choice([row.name for row in ROWS]),
    multiple=True,
    help="Of the table.",
    show_default="all",
)
@click.option("--processes", type=click.IntRange(min=1), default=2, help="Runs at a time.")
@click.option("--threads", type=thread_count, default=1, help="CPU threads per run.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/ablation"),
    help="Folder of the runs. Finished runs are reused, interrupted ones resume.",
)
@_publishes("ablation.json")
def ablation(seeds: int, names: tuple[str, ...], processes: int, threads: int, folder: Path) -> dict[str, Any]:
    """Pretrain and finetune with the parts of the objective added one at a time, over several seeds.

    Rows: from scratch; CAV-MAE; + a second view; + complementary masks; + distillation, which is KDC-MAE. All have
    the same budgets, smaller than those of the recipes avsynth-pretrain and avsynth-finetune. Every run is measured
    on held-out clips of AVSynth: accuracy, and after pretraining retrieval and localisation.

    \b
    kdcmae-bench ablation --readme
    """
    from kdcmae.bench.studies.ablation.plan import AblationSettings
    from kdcmae.bench.studies.ablation.suite import run_ablation

    settings = AblationSettings(seeds=tuple(range(seeds)))
    rows = tuple(row for row in ROWS if not names or row.name in names)
    return run_ablation(settings, folder, processes=processes, threads=threads, rows=rows, on_cell=_tell)


def _tell(result: dict[str, Any], done: int, total: int) -> None:
    accuracies = ", ".join(f"{100 * held['both']:.1f} % ({budget})" for budget, held in result["accuracy"].items())
    note(
        f"[{done}/{total}] {result['row']}, seed {result['seed']}: accuracy {accuracies} "
        f"after {result['seconds']['total']:.0f} s"
    )


@click.command(cls=KdcmaeCommand)
@click.argument("engines", nargs=-1, metavar="ENGINE...")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint that the engines were compiled from.",
    show_default="the shipped model",
)
@click.option("--clips", type=click.IntRange(min=1), default=600, help="Of AVSynth's test split.")
@_publishes("accuracy.json")
def accuracy(engines: tuple[str, ...], checkpoint: Path | None, clips: int) -> dict[str, Any]:
    """Accuracy on held-out clips of a checkpoint and of engines compiled from it, and the drop of each.

    A row for each use that a model can serve: sound and picture, one of them alone (an engine needs a variant for
    that; FOLDER@audio measures that variant alone), and one of them silent or black. Agreement is with PyTorch in the
    same use.

    \b
    kdcmae-bench accuracy out/ov-fp32 out/ov-int8 --readme
    """
    from kdcmae.assets import default_checkpoint
    from kdcmae.bench.studies.accuracy import measure_accuracy

    return measure_accuracy(checkpoint or default_checkpoint(), engines, clips=clips, on_subject=note)


@click.command(cls=KdcmaeCommand)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="A finetuned model.", show_default="the one shipped here"
)
@click.option("--preset", type=_PRESET, help="Latency alone, of an untrained model.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("openvino:int8", "openvino:bf16"),
    metavar="TARGET:PRECISION",
    help="What to build and measure; several times for several.",
)
@click.option(
    "--keep",
    "ratios",
    type=Number(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.75, 0.5, 0.35, 0.25),
    help="Share of the tokens; several times for several.",
)
@click.option("--clips", type=click.IntRange(min=1), default=480, help="AVSynth test clips.")
@_threads_option
@_publishes("keep-{model[name]}.json")
def keep(
    checkpoint: Path | None,
    preset: str | None,
    targets: tuple[str, ...],
    ratios: tuple[float, ...],
    clips: int,
    threads: int | None,
) -> dict[str, Any]:
    """Compare the ways to keep fewer tokens, by the engines built of each: accuracy on AVSynth against latency.

    A table per target: all tokens, then merging, energy and a uniform grid at every share, with agreement with the
    whole model in PyTorch, and which rows are on the front: no other is both faster and more accurate.

    \b
    kdcmae-bench keep
    kdcmae-bench keep --preset base --keep 0.5 --target openvino:bf16
    """
    if checkpoint is not None and preset is not None:
        raise ConfigError("give either --checkpoint FILE or --preset base|small|tiny, not both")
    from kdcmae import host
    from kdcmae.assets import default_checkpoint
    from kdcmae.bench.run.subjects import PRESET, load_torch_model
    from kdcmae.bench.studies.keep import KeepSettings, run_keep_benchmark

    path = None if preset else checkpoint or default_checkpoint()
    classifier = load_torch_model(str(path) if path else f"{PRESET}{preset}")
    name = path.stem if path else preset
    facts = {"name": name, "source": path.name if path else f"preset {preset}, seed 0", "random_weights": path is None}
    settings = KeepSettings(
        targets=tuple(_target(text) for text in targets),
        ratios=ratios,
        clips=0 if preset else clips,
        threads=threads or host.usable_cpus(),
    )
    return run_keep_benchmark(classifier, facts, settings, step=Steps())


def _target(text: str) -> tuple[str, str]:
    target, colon, precision = text.partition(":")
    if not (target and colon and precision):
        raise ConfigError(f"--target {text!r} must be TARGET:PRECISION, such as openvino:bf16")
    return target, precision


@click.command(cls=KdcmaeCommand)
@click.option("--preset", type=_PRESET, default="base", help="Of the model.")
@_publishes("memory-{preset}.json")
def memory(preset: str) -> dict[str, Any]:
    """Build an untrained model for every target and precision that a CPU can build, and watch what that takes.

    Peaks of the build and of what it starts, a compiler for instance, by step; the table has the largest. Linux only.
    The builds of the base preset take a quarter of an hour.
    """
    from kdcmae.bench.studies.memory import run_memory_benchmark

    return run_memory_benchmark(preset, step=Steps())


@click.command(cls=KdcmaeCommand)
@click.argument("engines", nargs=-1, required=True, metavar="ENGINE...", type=click.Path(path_type=Path))
@_threads_option
@click.option(
    "--seconds", type=Number(min=0, min_open=True), default=3.0, metavar="S", help="Of inferences, and of each ceiling."
)
@_publishes("profile.json")
def profile(engines: tuple[Path, ...], threads: int | None, seconds: float) -> dict[str, Any]:
    """Show what the layers of OpenVINO engines take, by class and executed precision, and the share of the ceiling.

    The ceiling is a large matrix product in the engine's precision on the same CPUs, measured before and after.

    \b
    kdcmae-bench profile out/ov-int8 out/ov-int8-half --readme
    """
    from kdcmae.bench.studies.profile import profile_engines

    return profile_engines(engines, threads=threads, seconds=seconds, step=Steps())


@click.command(cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Of every way of calling it.",
)
@_publishes("throughput-{engine}.json")
def throughput(engine: Path, seconds: float) -> dict[str, Any]:
    """Show how many clips per second an engine computes for one caller and for many, with streams and without.

    The ways of calling it take turns. One of them is OpenVINO's benchmark_app with its throughput hint on the same
    file, which is what the library can do without Python's part.

    \b
    kdcmae-bench throughput out/ov
    """
    from kdcmae.bench.studies.throughput import measure_throughput

    return measure_throughput(engine, seconds=seconds, step=Steps())
