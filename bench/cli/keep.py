"""``kdcmae-bench keep``: accuracy and latency of engines that keep a share of the tokens."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.cli.publishing import publish, publishing_options, report_file
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, thread_count
from kdcmae.errors import ConfigError

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="A finetuned model.", show_default="the one shipped here"
)
@click.option("--preset", type=click.Choice(["base", "small", "tiny"]), help="Latency alone, of an untrained model.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("openvino:int8", "openvino:bf16"),
    show_default=True,
    metavar="TARGET:PRECISION",
    help="What to build and measure; several times for several.",
)
@click.option(
    "--keep",
    "ratios",
    type=Number(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.75, 0.5, 0.35, 0.25),
    show_default=True,
    help="Share of the tokens; several times for several.",
)
@click.option("--clips", type=click.IntRange(min=1), default=480, show_default=True, help="AVSynth test clips.")
@click.option("--threads", type=thread_count, help="CPU threads.", show_default="all usable CPUs")
@publishing_options("keep-MODEL.json")
def command(
    checkpoint: Path | None,
    preset: str | None,
    targets: tuple[str, ...],
    ratios: tuple[float, ...],
    clips: int,
    threads: int | None,
    readme: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
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
    from kdcmae.assets import checkpoint as shipped
    from kdcmae.bench.run.subjects import PRESET, load_torch_model
    from kdcmae.bench.studies.keep import SECTION, KeepSettings, run_keep_benchmark

    path = None if preset else checkpoint or shipped("classifier")
    classifier = load_torch_model(str(path) if path else f"{PRESET}{preset}")
    name = path.stem if path else str(preset)
    facts = {"name": name, "source": path.name if path else f"preset {preset}, seed 0", "random_weights": path is None}
    settings = KeepSettings(
        targets=tuple(_target(text) for text in targets),
        ratios=ratios,
        clips=0 if preset else clips,
        threads=threads or host.usable_cpus(),
    )
    report = run_keep_benchmark(classifier, facts, settings, step=Steps())
    publish(SECTION, report, output=report_file(output, f"keep-{name}.json"), readme=readme, as_json=as_json)


def _target(text: str) -> tuple[str, str]:
    target, colon, precision = text.partition(":")
    if not (target and colon and precision):
        raise ConfigError(f"--target {text!r} must be TARGET:PRECISION, such as openvino:bf16")
    return target, precision
