"""``kdcmae-compile --target ...``: a checkpoint in, a verified engine folder out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from kdcmae.cli.common import KdcmaeCommand, Steps, exit_on_sigterm, json_option, note, print_json
from kdcmae.compile.cli.model import load_model, model_options
from kdcmae.errors import ConfigError
from kdcmae.runtime.manifest import TARGETS, BatchRange, Manifest

__all__ = ["command", "parse_batch"]


@click.command(cls=KdcmaeCommand)
@click.option("--target", type=click.Choice(TARGETS), required=True, help="What to compile for.")
@model_options
@click.option("--output", type=click.Path(path_type=Path), help="Engine folder.  [default: out/<target>-<precision>]")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True)
@click.option("--batch", default="1", show_default=True, metavar="N|MIN:OPT:MAX", help="Batch size, or a range.")
@json_option
def command(target: str, output: Path | None, precision: str, batch: str, as_json: bool, **model_options: Any) -> None:
    """Compile a model to an engine folder and prove that it computes what the model computes.

    \b
    kdcmae-compile --target openvino                        the small trained model that is shipped here
    kdcmae-compile --target openvino --checkpoint model.pth --output out/ov
    kdcmae-compile --target trt --checkpoint model.pth --precision fp16 --batch 1:8:64
    """
    exit_on_sigterm()
    batch_range = parse_batch(batch)
    folder = output or Path("out") / f"{target}-{precision}"
    note(f"kdcmae-compile: {target}, {precision}, batch {batch} -> {folder}")
    step = Steps()
    with step("load PyTorch"):
        from kdcmae.compile.build import CompileSettings, compile_engine, preflight
    preflight(target, folder)
    with step("load model"):
        model = load_model(**model_options)
    if model.facts["random_weights"]:
        note("  note: random weights; the engine is for trying things out, its labels mean nothing")
    settings = CompileSettings(target=target, precision=precision, batch=batch_range)  # type: ignore[arg-type]
    manifest = compile_engine(model, folder, settings, step=step, seconds=step.seconds)
    if as_json:
        print_json(
            {"engine": str(folder), "manifest": json.loads((folder / "manifest.json").read_text(encoding="utf-8"))}
        )
    else:
        _report(folder, manifest)


def parse_batch(text: str) -> BatchRange:
    """``"8"`` or ``"1:8:64"`` as a range.

    Raises:
        ConfigError: anything else, or sizes out of order.
    """
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ConfigError(f"--batch {text!r} is neither a size like 8 nor a range MIN:OPT:MAX like 1:8:64")
    return BatchRange(*sizes)


def _report(folder: Path, manifest: Manifest) -> None:
    console = Console(highlight=False)
    ladder = Table(title="Parity with the PyTorch model (float32)", title_justify="left")
    for column in ("rung", "result", "largest error", "allowed", "how"):
        ladder.add_column(column)
    colours = {"passed": "green", "failed": "red", "skipped": "yellow"}
    for rung in manifest.parity:
        worst = f"{max(rung['errors'].values()):.1e}" if rung["errors"] else "-"
        allowed = f"{rung['tolerance']:.0e}" if rung["errors"] else "-"
        status = rung["status"]
        ladder.add_row(rung["name"], f"[{colours[status]}]{status}[/]", worst, allowed, rung["note"])
    console.print(ladder)
    products = ", ".join(f"{count} in {found}" for found, count in manifest.precision["products"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    console.print(
        f"precision: asked {manifest.precision['asked']}, matrix products execute as {products or 'not known'}"
    )
    console.print(f"engine:    {folder} ({_megabytes(folder)}, {libraries})")
    skipped = [rung["note"] for rung in manifest.parity if rung["status"] == "skipped"]
    console.print(f"status:    {skipped[0]}" if skipped else "status:    built and verified")


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB"
