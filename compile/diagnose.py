"""Find the first layer that computes something else than the PyTorch model does, in the stages of a build."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcmae.compile.build import Build
from kdcmae.compile.layer_errors import Diagnosis, compare_layers
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Case
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.stages import Stage
from kdcmae.compile.targets import load_target
from kdcmae.progress import Step

__all__ = ["diagnose"]


def diagnose(
    model: EngineModel, settings: CompileSettings, scratch: Path, *, engine: Mapping[str, Path], step: Step
) -> list[Diagnosis]:
    """Look inside the stages of a build until the first with a layer out of its gate.

    Args:
        model: with its weights.
        settings: how it is, or was, built.
        scratch: an empty folder.
        engine: the engine's files by their names in the manifest's engine section, to look at instead of at a fresh
            export; empty for an export.

    Returns:
        The stages compared, the last of them with the first layer that is out of its gate where there is any.

    Raises:
        MissingDependencyError: the target's library is not installed.
    """
    target = load_target(settings.target)
    if model.parts is None or not target.record.one_precision:
        return _diagnose(model, settings, scratch / "model", engine.get("file"), step)
    float32 = dataclasses.replace(settings, precision="fp32", execute_as="")
    compared = _diagnose(model.parts.frontend, float32, scratch / "frontend", engine.get("frontend"), step)
    compared = [dataclasses.replace(diagnosis, stage=f"{diagnosis.stage}, frontend") for diagnosis in compared]
    if compared[-1].first is None:
        compared += _diagnose(model.parts.body, settings, scratch / "model", engine.get("file"), step)
    return compared


def _diagnose(
    model: EngineModel, settings: CompileSettings, scratch: Path, engine: Path | None, step: Step
) -> list[Diagnosis]:
    """The stages of a model that is one graph."""
    scratch.mkdir()
    build = Build(model, scratch, settings, step, load_target(settings.target), inside=True, engine=engine)
    compared: list[Diagnosis] = []
    for stage in build.stages():
        name = {"program": "lowered", "engine": settings.target}.get(stage.name, stage.name)
        with step(f"compare {name}"):
            compared.append(_compared_on(build.cases, build.model, stage, name))
        del stage  # before the next one is made
        if compared[-1].first is not None:
            break
    return compared


def _compared_on(proofs: Sequence[Case], model: EngineModel, stage: Stage, name: str) -> Diagnosis:
    """The first case with a layer out of the gate; the last where there is none."""
    assert stage.values is not None
    for case in proofs:
        diagnosis = compare_layers(model, stage.values, case.inputs, stage.gate, stage=name)
        if diagnosis.first is not None:
            break
    return dataclasses.replace(diagnosis, case=case.name)
