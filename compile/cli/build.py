"""``kdcmae-compile --target ...``: a checkpoint in, a verified engine folder out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.assets import default_checkpoint
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, note, print_json
from kdcmae.compile import package
from kdcmae.compile.cache import BuildCache
from kdcmae.compile.cli.acting import BUILD_RULES, require_acting
from kdcmae.compile.cli.classes import require_clips
from kdcmae.compile.cli.model import compared_with_trained, load_model, model_options, require_files
from kdcmae.compile.cli.options import (
    Destination,
    engine_options,
    expect_options,
    output_options,
    proof_options,
    quantization_options,
)
from kdcmae.compile.cli.search import search, search_settings
from kdcmae.compile.cli.sections import SECTIONS
from kdcmae.compile.latency import describe_speed
from kdcmae.compile.preflight import preflight, require_possible
from kdcmae.compile.report.notes import clip_lines, how_rungs_ran, what_stays_float32
from kdcmae.compile.report.proof import not_proved, proved
from kdcmae.compile.settings import CompileSettings, Expectation, QuantizationSettings
from kdcmae.config import Modality
from kdcmae.errors import EngineError
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import QUANTIZED
from kdcmae.terminal import say, style, table

if TYPE_CHECKING:
    from kdcmae.compile.models import EngineModel

__all__ = ["command"]


@click.command(cls=KdcmaeCommand, sections=SECTIONS)
@engine_options
@model_options
@output_options
@quantization_options
@proof_options
@expect_options
@click.option(
    "--budget-ms",
    type=Number(),
    help="Search precision, kept tokens and threads for the most accurate engine that takes at most this here, in nine "
    "of ten inferences, and loses at most --max-drop (1 by default).",
)
@json_option
def command(
    engine: dict[str, Any],
    destination: Destination,
    quantization: dict[str, Any],
    proof: dict[str, Any],
    expectation: Expectation | None,
    budget_ms: float | None,
    as_json: bool,
    **model_options: Any,
) -> None:
    """Compile a model to an engine folder and prove that it computes what the model computes.

    \b
    kdcmae-compile --target openvino                        # the small trained model that is shipped here
    kdcmae-compile --target openvino --checkpoint model.pth --output out/ov
    kdcmae-compile --target trt --checkpoint model.pth --precision fp16 --batch 1:8:64
    kdcmae-compile --target openvino --precision int8 --max-drop 1.0
    kdcmae-compile --budget-ms 100 --max-drop 1.0           # the most accurate engine that this machine runs in time
    """
    require_acting(BUILD_RULES)
    wanted = QuantizationSettings(**quantization, reuse=destination.cached)
    settings = CompileSettings(**engine, quantization=wanted, **proof)
    settings.gate(set())  # a limit out of range is wrong use: say so before any work
    require_files(model_options, settings.clips, expectation)
    searched = None if budget_ms is None else search_settings(settings, budget_ms)
    if searched or settings.precision in QUANTIZED:
        measured = searched is not None or wanted.max_drop is not None
        if line := require_clips(model_options, wanted, measured=measured):
            note(f"note: calibrated on AVSynth: {line}")
    kind = settings.precision if searched is None else "searched"
    folder = destination.folder or Path("out") / f"{settings.target}-{kind}"
    package.check_destination(folder)
    if searched is None:
        require_possible(settings)
    step = Steps(expected=_earlier_seconds(folder, settings))
    if expectation is not None:
        model_options["trained"] = compared_with_trained(expectation, model_options, step)
    if searched is not None:
        search(searched, folder, model_options, step, as_json=as_json)
        return
    _announce(settings, folder)
    cache = BuildCache(lambda line: note(f"  note: {line}"))
    key, variants = "", destination.variants
    if destination.cached and expectation is None:
        key = _key(cache, {**model_options, "variants": variants}, settings)
    manifest = _cached(cache, key, folder, step) if key else None
    if manifest is None:
        manifest = _build(model_options, variants, settings, folder, step)
        if key:
            cache.store(key, folder, manifest)
    if as_json:
        print_json(
            {"engine": str(folder), "manifest": json.loads((folder / "manifest.json").read_text(encoding="utf-8"))}
        )
    else:
        _report(folder, manifest)


def _announce(settings: CompileSettings, folder: Path) -> None:
    sizes = dataclasses.astuple(settings.batch)
    batch = ":".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))
    note(f"kdcmae-compile: {settings.target}, {settings.precision}, batch {batch} -> {folder}")
    if settings.chosen:
        note(f"  {settings.precision}, because {settings.chosen}")
    if settings.elsewhere:
        note(f"  for {settings.cpu.described}; what this machine cannot check remains to be checked there")


def _earlier_seconds(folder: Path, settings: CompileSettings) -> dict[str, float]:
    """What the steps of an earlier build took, whose engine this one replaces; empty where there was none like it."""
    try:
        manifest = Manifest.read(folder)
        seconds = {str(name): float(took) for name, took in manifest.build.get("seconds", {}).items()}
    except (AttributeError, EngineError, OSError, TypeError, ValueError):
        return {}
    alike = (manifest.target, manifest.precision.get("asked")) == (settings.target, settings.precision)
    return seconds if alike else {}


def _key(cache: BuildCache, model_options: dict[str, Any], settings: CompileSettings) -> str:
    """The engine's name in the cache; empty where there is none."""
    if model_options["checkpoint"] is model_options["preset"] is None:
        model_options = {**model_options, "checkpoint": default_checkpoint()}
    return cache.key(model_options, dataclasses.asdict(settings))


def _cached(cache: BuildCache, key: str, folder: Path, step: Steps) -> Manifest | None:
    """The same engine from an earlier build, put into its place."""
    with step("look into the cache"):
        manifest = cache.fetch(key, folder)
    if manifest is not None:
        note(f"  the same was built on {manifest.created}: taken from the cache; --no-cache builds it again")
        if assumed := manifest.model.get("assumed"):
            note(f"  note: the checkpoint does not say how its inputs were made; assumed: {assumed}")
    return manifest


def _build(
    model_options: dict[str, Any], variants: tuple[Modality, ...], settings: CompileSettings, folder: Path, step: Steps
) -> Manifest:
    with step("load PyTorch"):
        from kdcmae.compile.build import compile_engine
        from kdcmae.compile.models import free_weights
    preflight(settings, folder)

    def load() -> EngineModel:
        with step("load model"):
            return load_model(**model_options)

    model = load()
    if model.facts["random_weights"]:
        note("  note: random weights; the engine is for trying things out, its labels mean nothing")
    if variants:
        from kdcmae.compile.modalities import compile_modalities

        return compile_modalities(model, variants, folder, settings, reload=load, step=step, seconds=step.seconds)
    exported = partial(free_weights, model)
    return compile_engine(model, folder, settings, step=step, seconds=step.seconds, exported=exported, reload=load)


def _report(folder: Path, manifest: Manifest) -> None:
    say(_ladder(manifest.parity))
    for line in how_rungs_ran(manifest.parity):
        say(f"  {line}")
    for line in proved(manifest):
        say(f"  proved: {line}")
    for line in not_proved(manifest):
        say(f"  not proved: {line}")
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    say(f"precision: asked {manifest.precision['asked']}, {_executed(manifest.precision['products'])}")
    for line in what_stays_float32(manifest.precision):
        say(f"           {line}")
    for title, line in clip_lines(manifest.precision):
        say(f"{title + ':':<10} {line}")
    if speed := manifest.build.get("speed"):
        say(f"speed:     {describe_speed(manifest.precision['asked'], speed)}")
    say(f"engine:    {folder} ({_megabytes(folder)}, {libraries})")
    skipped = [rung["note"] for rung in manifest.parity if rung["status"] == "skipped"]
    say(f"status:    {skipped[0]}" if skipped else "status:    built and verified")


def _executed(products: Mapping[str, int]) -> str:
    """Such as "23 of 24 matrix products execute in bf16, 1 in fp32"."""
    if not products:
        return "matrix products were not checked on this machine"
    (most, count), *rest = sorted(products.items(), key=lambda item: -item[1])
    others = "".join(f", {few} in {precision}" for precision, few in rest)
    return f"{count} of {sum(products.values())} matrix products execute in {most}{others}"


def _ladder(rungs: Sequence[Mapping[str, Any]]) -> str:
    head = ("rung", "result", "largest error", "allowed", "cosine", "same class", "with ties")
    colours = {"passed": "green", "failed": "red", "skipped": "yellow"}
    rows = (
        (
            rung["name"],
            style(rung["status"], colours[rung["status"]]),
            f"{max(rung['errors'].values()):.1e}" if rung["errors"] else "-",
            "-" if rung["tolerance"] is None else f"{rung['tolerance']:.0e}",
            f"{min(rung['cosines'].values()):.6f}" if rung["cosines"] else "-",
            *("-" if rung[name] is None else f"{rung[name]:.1%}" for name in ("strict", "agreement")),
        )
        for rung in rungs
    )
    return table(head, rows, title="Parity with the PyTorch model (float32)")


def _megabytes(folder: Path) -> str:
    return f"{sum(file_sizes(folder).values()) / 1e6:.1f} MB"
