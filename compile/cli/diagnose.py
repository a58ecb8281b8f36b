"""``kdcmae-compile diagnose``: the first layer that computes something else than the model does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from kdcmae.cli.common import KdcmaeCommand, Steps, json_option, print_json
from kdcmae.compile.cli.model import load_model, model_options
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import ConfigError, GateError
from kdcmae.runtime.manifest import GRAPHS, TARGETS, BatchRange, Manifest

if TYPE_CHECKING:
    from kdcmae.compile.diagnose import Stage

__all__ = ["command"]

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}  # of OpenVINO's hints


@click.command(cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path), required=False)
@model_options
@click.option("--target", type=click.Choice(TARGETS), help="What was compiled for; an ENGINE says so itself.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Likewise.")
@click.option("--max-error", type=float, help="Largest error allowed, relative to a layer's largest value; to tighten.")
@json_option
def command(
    engine: Path | None,
    target: str | None,
    precision: str | None,
    max_error: float | None,
    as_json: bool,
    **model_options: Any,
) -> None:
    """Walk through a model layer by layer and name the first whose output leaves tolerance.

    \b
    kdcmae-compile diagnose --checkpoint model.pth --target openvino --precision bf16
    kdcmae-compile diagnose out/ov --checkpoint model.pth

    The options that choose the model are those it was compiled with. Exits with 1 where a layer is found.
    """
    limits = {} if max_error is None else {"max_error": max_error}
    settings, files = _settings(engine, target, precision, limits)
    step = Steps()
    with step("load PyTorch"):
        from kdcmae.compile.diagnose import diagnose
    with step("load model"):
        model = load_model(**model_options)
    with tempfile.TemporaryDirectory() as folder:
        stages = diagnose(model, settings, Path(folder), engine=files, step=step)
    first = stages[-1].first
    if as_json:
        print_json({"first": first.name if first else None, "stages": [stage.to_dict() for stage in stages]})
    else:
        for stage in stages:
            _print(stage)
    if first is not None:
        raise GateError(f"the first layer out of tolerance is {first.name}, in stage {stages[-1].name!r}")


def _settings(
    engine: Path | None, target: str | None, precision: str | None, limits: dict[str, float]
) -> tuple[CompileSettings, dict[str, Path]]:
    """How the engine was built, and its files; what the options say where there is no engine.

    Raises:
        ConfigError: both an engine and options that it answers itself, or neither.
    """
    if engine is None:
        if target is None:
            raise ConfigError("give an ENGINE folder, or --target and --precision of what to look into")
        batch = BatchRange(1, 1, 1)
        return CompileSettings(target=target, precision=precision or "fp32", batch=batch, limits=limits), {}
    if target is not None or precision is not None:
        raise ConfigError("an ENGINE says its target and precision itself; leave --target and --precision out")
    manifest = Manifest.read(engine)
    claimed = {claim["layers"]: claim["claimed"] for claim in manifest.precision.get("claims", ())}.get("products", "")
    hint = manifest.engine.get("inference_precision", "")
    settings = CompileSettings(
        target=manifest.target,
        precision=manifest.precision["asked"],
        batch=manifest.batch,
        execute_as=claimed if claimed in _PRECISIONS.values() else _PRECISIONS.get(hint, ""),
        limits=limits,
    )
    return settings, {role: engine / manifest.engine[role] for role in GRAPHS if role in manifest.engine}


def _print(stage: Stage) -> None:
    table = Table(title=f"Layers of {stage.name} against the float32 PyTorch model", title_justify="left")
    for column in ("layer", "error", "cosine", ""):
        table.add_column(column)
    for layer in stage.layers:
        mark = "[green]within[/]" if layer.passed else "[red]out[/]"
        table.add_row(layer.name, f"{layer.error:.1e}", f"{layer.cosine:.6f}", mark)
    Console(highlight=False).print(table)
