"""``kdcmae-compile diagnose``: the first layer that computes something else than the model does."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli.common import KdcmaeCommand, Steps, json_option, print_json
from kdcmae.compile.cli.acting import BUILD_RULES, ENGINE_RULES, require_acting
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
from kdcmae.compile.cli.sections import SECTIONS
from kdcmae.compile.preflight import require_tools
from kdcmae.compile.settings import CompileSettings, Expectation, QuantizationSettings
from kdcmae.compile.targets import load_target
from kdcmae.config import Modality
from kdcmae.errors import GateError
from kdcmae.runtime.facts import read_with_facts, require_one_piece
from kdcmae.runtime.manifest import GRAPHS
from kdcmae.runtime.precisions import FLOATING, QUANTIZED
from kdcmae.terminal import say, style, table

if TYPE_CHECKING:
    from kdcmae.compile.layer_errors import Diagnosis
    from kdcmae.compile.models import EngineModel

__all__ = ["command"]


@click.command(cls=KdcmaeCommand, sections=SECTIONS)
@click.argument("folder", metavar="[ENGINE]", type=click.Path(path_type=Path), required=False)
@engine_options
@model_options
@output_options
@quantization_options
@proof_options
@expect_options
@json_option
def command(
    folder: Path | None,
    engine: dict[str, Any],
    destination: Destination,
    quantization: dict[str, Any],
    proof: dict[str, Any],
    expectation: Expectation | None,
    as_json: bool,
    **model_options: Any,
) -> None:
    """Walk through a model layer by layer and name the first whose output leaves tolerance.

    \b
    kdcmae-compile diagnose --checkpoint model.pth --target openvino --precision bf16
    kdcmae-compile diagnose out/ov --checkpoint model.pth

    Takes the options of the build that failed and writes nothing, whatever --output says. For an ENGINE, only the
    options that choose the model and the limits. Exits with 1 where a layer is found.
    """
    require_acting(BUILD_RULES if folder is None else (*ENGINE_RULES, *BUILD_RULES))
    files: dict[str, Path] = {}
    if folder is None:
        wanted = QuantizationSettings(**quantization, reuse=destination.cached)
        settings = CompileSettings(**engine, quantization=wanted, **proof)
        if settings.precision in QUANTIZED:
            require_clips(model_options, wanted, measured=wanted.max_drop is not None)
    else:
        settings, files = _of_engine(folder, proof["limits"], proof["clips"])
    require_files(model_options, settings.clips, expectation)
    variants = destination.variants
    step = Steps()
    if expectation is not None:
        compared_with_trained(expectation, model_options, step)
    with step("load PyTorch"):
        from kdcmae.compile.diagnose import diagnose
    require_tools(settings)
    with step("load model"):
        models = _engine_models(load_model(**model_options), variants)
    compared: list[Diagnosis] = []
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            stages = diagnose(model, settings, Path(scratch), engine=files, step=step)
        of = f"{name}, " if variants else ""
        compared += [dataclasses.replace(diagnosis, stage=f"{of}{diagnosis.stage}") for diagnosis in stages]
        if compared[-1].first is not None:
            break
    _report(compared, load_target(settings.target).hidden(settings), as_json=as_json)


def _report(compared: Sequence[Diagnosis], hidden: str, *, as_json: bool) -> None:
    """Print the layers of every stage.

    Raises:
        GateError: one of them is out of its gate.
    """
    first = compared[-1].first
    if as_json:
        stages = [diagnosis.to_dict() for diagnosis in compared]
        print_json({"first": first.name if first else None, "blind": hidden, "stages": stages})
    else:
        for diagnosis in compared:
            _print(diagnosis)
    if first is not None:
        raise GateError(f"the first layer out of tolerance is {first.name}, in stage {compared[-1].stage!r}")
    if hidden and not as_json:
        say(hidden)


def _engine_models(model: EngineModel, variants: tuple[Modality, ...]) -> dict[str, EngineModel]:
    """The models of one folder by modality, the whole one first.

    Args:
        model: for clips that have everything.
        variants: modalities of clips that lack the other one.

    Raises:
        ConfigError: there are such modalities, and the model does not classify by sound and picture.
    """
    from kdcmae.compile.modalities import with_input_of

    return {"audiovisual": model, **{modality: with_input_of(model, modality) for modality in variants}}


def _of_engine(
    folder: Path, limits: dict[str, float], clips: tuple[Path, ...]
) -> tuple[CompileSettings, dict[str, Path]]:
    """How an engine was built, and its files.

    Raises:
        ConfigError: options that it answers itself.
    """
    manifest = read_with_facts(folder)
    require_one_piece(folder, manifest)
    claimed = {claim["layers"]: claim["claimed"] for claim in manifest.precision.get("claims", ())}.get("products", "")
    settings = CompileSettings(
        target=manifest.target,
        precision=manifest.precision["asked"],
        batch=manifest.batch,
        execute_as=claimed if claimed in FLOATING else load_target(manifest.target).floating_of(manifest.engine),
        limits=limits,
        clips=clips,
    )
    return settings, {role: folder / manifest.engine[role] for role in GRAPHS if role in manifest.engine}


def _print(diagnosis: Diagnosis) -> None:
    rows = (
        (
            layer.name,
            f"{layer.error:.1e}",
            f"{layer.cosine:.6f}",
            style("within", "green") if layer.passed else style("out", "red"),
        )
        for layer in diagnosis.layers
    )
    title = f"Layers of {diagnosis.stage} against the float32 PyTorch model, on {diagnosis.case}"
    say(table(("layer", "error", "cosine", ""), rows, title=title))
