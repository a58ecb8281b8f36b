"""``kdcmae-compile --target ...``: a checkpoint in, a verified engine folder out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kdcmae import progress
from kdcmae.assets import default_checkpoint
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, note, print_json
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
from kdcmae.compile.cli.search import search, search_settings, show_search
from kdcmae.compile.cli.sections import SECTIONS
from kdcmae.compile.latency import describe_speed
from kdcmae.compile.preflight import preflight, require_possible
from kdcmae.compile.report.notes import clip_lines, how_rungs_ran, variant_lines, what_stays_float32
from kdcmae.compile.report.proof import not_proved, proved
from kdcmae.compile.settings import CompileSettings, Expectation, QuantizationSettings
from kdcmae.config import Modality
from kdcmae.errors import EngineError
from kdcmae.files import publishing
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import QUANTIZED
from kdcmae.terminal import say, style, table

if TYPE_CHECKING:
    from kdcmae.compile.models import EngineModel
    from kdcmae.compile.search import Search

__all__ = ["build", "command", "grouped"]


_budget_option = click.option(
    "--budget-ms",
    type=Number(),
    help="Search precision, kept tokens and threads for the most accurate engine that takes at most this here, in nine "
    "of ten inferences, and loses at most --max-drop (1 by default).",
)


_tune_option = click.option(
    "--tune",
    type=click.Choice(["on", "table", "off"]),
    default="on",
    show_default=True,
    envvar="KDCMAE_TUNE",
    help="Time the variants of the graph on this machine and take the fastest that passes. With table, or for another "
    "CPU, the variant is the one that was the fastest where its class was measured; with off it is the plain graph.",
)


def _build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option of a build; the command gets what :func:`build` takes, in groups."""
    groups = (
        engine_options,
        model_options,
        output_options,
        quantization_options,
        proof_options,
        expect_options,
        _budget_option,
        _tune_option,
    )
    for group in reversed(groups):
        command = group(command)
    return command


@_build_options
def grouped(**groups: Any) -> dict[str, Any]:
    """The values of all options, by their names, as what :func:`build` takes."""
    return groups


@click.command(cls=KdcmaeCommand, sections=SECTIONS)
@_build_options
@json_option
def command(as_json: bool, **groups: Any) -> None:
    """Compile a model to an engine folder and prove that it computes what the model computes.

    \b
    kdcmae-compile --target openvino                        # the small trained model that is shipped here
    kdcmae-compile --target openvino --checkpoint model.pth --output out/ov
    kdcmae-compile --target trt --checkpoint model.pth --precision fp16 --batch 1:8:64
    kdcmae-compile --target openvino --precision int8 --max-drop 1.0
    kdcmae-compile --budget-ms 100 --max-drop 1.0           # the most accurate engine that this machine runs in time
    """
    folder = build(Steps, note, show_search=partial(show_search, as_json=as_json), **groups)
    if groups["budget_ms"] is not None:
        return
    if as_json:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        print_json({"engine": str(folder), "manifest": manifest})
    else:
        _report(folder, Manifest.read(folder))


def build(
    steps: Callable[..., progress.Steps],
    say_in_passing: Callable[[str], None],
    *,
    engine: dict[str, Any],
    destination: Destination,
    quantization: dict[str, Any],
    proof: dict[str, Any],
    expectation: Expectation | None,
    budget_ms: float | None,
    tune: Literal["on", "table", "off"],
    show_search: Callable[[Search, Path | None], None] = lambda search, folder: None,
    **model_options: Any,
) -> Path:
    """Build an engine, or search one; the command line and :func:`kdcmae.compile.compile_model` do it here.

    Args:
        steps: makes what shows progress, from the seconds that are expected.
        say_in_passing: gets notes, a line each.
        engine, destination, quantization, proof, expectation, budget_ms, tune: groups of options.
        show_search: gets what a search found and the engine's folder, or None where nothing fits.
        model_options: what :func:`load_model` takes.

    Returns:
        The engine's folder.

    Raises:
        GateError: the engine is not what was asked for.
        KdcmaeError: anything else that is in the way.
    """
    require_acting(BUILD_RULES)
    wanted = QuantizationSettings(**quantization, reuse=destination.cached)
    settings = CompileSettings(**engine, tune=tune, quantization=wanted, **proof)
    settings.gate(set())  # a limit out of range is wrong use: say so before any work
    require_files(model_options, settings.clips, expectation)
    searched = None if budget_ms is None else search_settings(settings, budget_ms)
    if searched or settings.precision in QUANTIZED:
        measured = searched is not None or wanted.max_drop is not None
        if line := require_clips(model_options, wanted, measured=measured):
            say_in_passing(f"note: calibrated on AVSynth: {line}")
    kind = settings.precision if searched is None else "searched"
    folder = destination.folder or Path("out") / f"{settings.target}-{kind}"
    publishing.check_destination(folder)
    if searched is None:
        require_possible(settings)
    step = steps(expected=_earlier_seconds(folder, settings))
    if expectation is not None:
        model_options["trained"] = compared_with_trained(expectation, model_options, step)
    if searched is not None:
        search(searched, folder, model_options, step, say_in_passing, show_search)
        return folder
    for line in _announced(settings, folder):
        say_in_passing(line)
    _take_or_build(model_options, destination, settings, folder, step, say_in_passing, cached=expectation is None)
    return folder


def _take_or_build(
    model_options: dict[str, Any],
    destination: Destination,
    settings: CompileSettings,
    folder: Path,
    step: progress.Steps,
    say_in_passing: Callable[[str], None],
    *,
    cached: bool,
) -> None:
    """Put the engine into its folder: from the cache, or built and stored there where ``cached``."""
    cache = BuildCache(lambda line: say_in_passing(f"  note: {line}"))
    key, variants = "", destination.variants
    if destination.cached and cached:
        key = _key(cache, {**model_options, "variants": variants}, settings)
    if key and (manifest := _cached(cache, key, folder, step)) is not None:
        for line in _said_of_cached(manifest):
            say_in_passing(line)
    else:
        manifest = _build(model_options, variants, settings, folder, step, say_in_passing)
        if key:
            cache.store(key, folder, manifest)


def _announced(settings: CompileSettings, folder: Path) -> Iterator[str]:
    sizes = dataclasses.astuple(settings.batch)
    batch = ":".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))
    yield f"kdcmae-compile: {settings.target}, {settings.precision}, batch {batch} -> {folder}"
    if settings.chosen:
        yield f"  {settings.precision}, because {settings.chosen}"
    if settings.elsewhere:
        yield (f"  for {settings.cpu.described}; what this machine cannot check remains to be checked there")


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


def _cached(cache: BuildCache, key: str, folder: Path, step: progress.Steps) -> Manifest | None:
    """The same engine from an earlier build, put into its place."""
    with step("look into the cache"):
        return cache.fetch(key, folder)


def _said_of_cached(manifest: Manifest) -> Iterator[str]:
    yield f"  the same was built on {manifest.created}: taken from the cache; --no-cache builds it again"
    if assumed := manifest.model.get("assumed"):
        yield f"  note: the checkpoint does not say how its inputs were made; assumed: {assumed}"


def _build(
    model_options: dict[str, Any],
    variants: tuple[Modality, ...],
    settings: CompileSettings,
    folder: Path,
    step: progress.Steps,
    say_in_passing: Callable[[str], None],
) -> Manifest:
    with step("load PyTorch"):
        from kdcmae.compile.build import compile_engine
        from kdcmae.compile.models import free_weights
        from kdcmae.compile.parts import require_two_encoders
    preflight(settings, folder)

    def load() -> EngineModel:
        with step("load model"):
            return load_model(**model_options)

    model = load()
    if settings.split:
        require_two_encoders(model)
    if model.facts["random_weights"]:
        say_in_passing("  note: random weights; the engine is for trying things out, its labels mean nothing")
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
    for line in variant_lines(manifest.build):
        say(f"variant:   {line}")
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
