"""One folder for an audiovisual engine and the engines of the same model for clips without sound or picture."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kdcmae.compile import memory
from kdcmae.compile.build import compile_engine
from kdcmae.compile.models import EngineModel, free_weights
from kdcmae.compile.raw import with_raw_inputs
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import load_target
from kdcmae.config import MODALITY_INPUTS, Modality
from kdcmae.errors import CheckpointError, ConfigError, GateError
from kdcmae.files import publishing
from kdcmae.progress import Step
from kdcmae.runtime import feeding, load_engine
from kdcmae.runtime.execution import differences_known
from kdcmae.runtime.manifest import GRAPHS, LABELS_FILE, Manifest, file_name
from kdcmae.runtime.schema import MANIFEST_FILE

__all__ = ["compile_modalities", "with_input_of"]

_WHOLE: Modality = "audiovisual"


def with_input_of(model: EngineModel, modality: Modality) -> EngineModel:
    """An audiovisual classifier for clips of which only one modality is there.

    Args:
        model: of prepared or raw inputs.
        modality: ``audio`` or ``video``.

    Raises:
        ConfigError: the model does not classify, or not by sound and picture.
    """
    if model.facts["modality"] != "audiovisual" or not model.labels:
        raise ConfigError(f"--modalities is for audiovisual classifiers, and {model.facts['name']} is none")
    if model.parts is not None:
        return with_raw_inputs(with_input_of(model.parts.body, modality))
    seen = feeding.sources(MODALITY_INPUTS[modality])
    inputs = tuple(spec for spec in model.inputs if feeding.sources([spec.name]) <= seen)
    return dataclasses.replace(model, inputs=inputs, trained=None)  # the user's code was not asked about these inputs


def compile_modalities(
    model: EngineModel,
    variants: Sequence[Modality],
    folder: Path,
    settings: CompileSettings,
    *,
    reload: Callable[[], EngineModel],
    step: Step,
    seconds: dict[str, float],
) -> Manifest:
    """Build, verify and publish an engine folder with variants; each has a parity ladder of its own.

    Where the target keeps weights apart from the graph (OpenVINO, ONNX Runtime), the variants share one file of them.

    Args:
        model: of clips that have everything; its weights are freed.
        variants: modalities of clips that lack the other one.
        folder: where the engine goes; an engine there is replaced, but only by one that passed.
        settings: what to build.
        reload: gives the model again, with its weights, which no build needs longer than until it has exported them.
        step: shows progress; a context manager per named step.
        seconds: what the steps took so far, as ``step`` fills it.

    Returns:
        The manifest of the audiovisual engine as written.

    Raises:
        ConfigError: the model does not classify by sound and picture.
        CheckpointError: what was loaded again is another model.
        GateError: an engine is out of its gate, or fails its self-test in the common folder; nothing was written.
        MissingDependencyError: the target's library is not installed.
        EngineError: an export or a build failed; nothing was written.
    """
    publishing.check_destination(folder)
    for modality in variants:
        with_input_of(model, modality)  # refuses models that have no such input before any work is done
    with publishing.staging(folder) as partial:
        build = functools.partial(_build, settings=settings, step=step, seconds=seconds)
        manifests: dict[str, Manifest] = {_WHOLE: build(model, partial / _WHOLE, reload=reload)}
        for modality in variants:
            memory.trim()
            again = reload()
            if again.facts != model.facts:
                raise CheckpointError(f"{model.facts['name']} has changed while it was compiled; compile it again")
            restored = functools.partial(lambda name: with_input_of(reload(), name), modality)
            single = dataclasses.replace(settings, split=False)  # of one encoder
            manifests[modality] = build(
                with_input_of(again, modality), partial / modality, reload=restored, settings=single
            )
        whole = partial / _WHOLE
        weights = _share_weights(partial, manifests)
        for modality in variants:
            _move(partial / modality, whole, modality)
        manifest = _write(whole, manifests, weights)
        if not any(rung["status"] == "skipped" for rung in manifest.parity if rung["name"] == "artifact"):
            with step("verify the variants"):
                _self_test(whole)
        publishing.publish(whole, folder)
    return manifest


def _build(
    model: EngineModel,
    folder: Path,
    *,
    reload: Callable[[], EngineModel],
    settings: CompileSettings,
    step: Step,
    seconds: dict[str, float],
) -> Manifest:
    exported = functools.partial(free_weights, model)
    return compile_engine(model, folder, settings, step=step, seconds=seconds, exported=exported, reload=reload)


def _move(source: Path, target: Path, variant: str) -> None:
    for path in source.iterdir():
        if path.name not in (LABELS_FILE, MANIFEST_FILE):
            os.rename(path, target / file_name(path.name, variant))


def _share_weights(folder: Path, manifests: Mapping[str, Manifest]) -> str:
    """Put the weights of all engines into one file beside the first, and give its name; nothing where none can."""
    graphs = [folder / name / file for name, manifest in manifests.items() for file in manifest.graphs]
    return load_target(next(iter(manifests.values())).target).share(graphs)


def _write(folder: Path, manifests: Mapping[str, Manifest], weights: str) -> Manifest:
    """Write the manifests, that of the engine itself last: it has the digests of the others."""
    variants = tuple(name for name in manifests if name != _WHOLE)
    written: Manifest
    for name in (*variants, _WHOLE):
        manifest, variant = manifests[name], "" if name == _WHOLE else name
        files = {role: file_name(manifest.engine[role], variant) for role in GRAPHS if role in manifest.engine}
        engine = {**manifest.engine, **files, **({"weights": weights} if weights else {})}
        manifest = dataclasses.replace(manifest, engine=engine, variants=() if variant else variants)
        written = manifest.write(folder, variant)
    return written


def _self_test(folder: Path) -> None:
    with differences_known(), load_engine(folder) as engine:
        result = engine.self_test()
    if not result.passed:
        raise GateError(f"the engines fail their self-test in one folder: {result}; nothing was written")
