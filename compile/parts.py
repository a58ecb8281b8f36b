"""Build an engine in parts: an encoder per modality, and what joins them."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kdcmae.compile.cutting import GraphPart
from kdcmae.compile.models import EngineModel
from kdcmae.compile.stages import Run
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Target
from kdcmae.config import MODALITY_INPUTS
from kdcmae.errors import ConfigError
from kdcmae.runtime import feeding
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.execution import summed
from kdcmae.runtime.manifest import GRAPHS, TensorSpec
from kdcmae.runtime.parts import in_turn

__all__ = ["build_engine", "encoder_inputs", "require_two_encoders"]


def encoder_inputs(inputs: Sequence[TensorSpec]) -> dict[str, tuple[str, ...]]:
    """Names of a model's inputs by the modality whose encoder reads them; a modality without any is left out."""
    sources = {name: feeding.sources(MODALITY_INPUTS[name]) for name in ("audio", "video")}
    named = {
        modality: tuple(spec.name for spec in inputs if feeding.sources([spec.name]) <= source)
        for modality, source in sources.items()
    }
    return {modality: names for modality, names in named.items() if names}


def require_two_encoders(model: EngineModel) -> None:
    """Refuse to cut a model of one modality.

    Raises:
        ConfigError: it takes sound or picture only.
    """
    encoders = encoder_inputs(model.inputs)
    if len(encoders) < 2:
        raise ConfigError(
            f"--split is for models of sound and picture, and {model.facts['name']} takes {', '.join(encoders)} only; "
            "leave it out"
        )


def build_engine(target: Target, request: BuildRequest, outputs: Sequence[TensorSpec], *, split: bool) -> BuiltEngine:
    """Build an engine, in one piece or in parts.

    Args:
        target: builds it.
        request: for the whole engine.
        outputs: of the whole engine.
        split: cut the graph and build an engine of every part.

    Raises:
        EngineError: the graph cannot be cut, or the library refused it.
    """
    return _build_parts(target, request, outputs) if split else target.build(request)


def _build_parts(target: Target, request: BuildRequest, outputs: Sequence[TensorSpec]) -> BuiltEngine:
    assert request.graph is not None
    scratch = request.graph.parent / "parts"
    groups, frontends = encoder_inputs(request.inputs), dict[str, GraphPart]()
    if request.frontend is not None:
        (scratch / "frontends").mkdir(parents=True)
        frontends = {part.name: part for part in target.cut(request.frontend, scratch / "frontends", groups)}
        groups = {name: part.outputs for name, part in frontends.items()}
    (scratch / "bodies").mkdir(parents=True)
    bodies = target.cut(request.graph, scratch / "bodies", groups)
    handed = [spec for part in bodies for spec in part.handed]
    specs = {spec.name: spec for spec in (*request.inputs, *outputs, *handed)}
    built, described, runs = [], [], []
    for part in bodies:
        frontend = frontends.get(part.name)
        inputs = tuple(specs[name] for name in (part if frontend is None else frontend).inputs)
        engine = target.build(
            dataclasses.replace(
                request,
                program=None,
                graph=part.graph,
                frontend=None if frontend is None else frontend.graph,
                inputs=inputs,
                outputs=part.outputs,
                part=part.name,
            )
        )
        built.append(dataclasses.replace(engine, run=None))
        described.append(_described(part, engine, inputs, specs))
        runs.append(([spec.name for spec in inputs], engine.run))
    shutil.rmtree(scratch)
    return _joined(built, described, _chained(runs, request.outputs))


def _described(
    part: GraphPart, engine: BuiltEngine, inputs: Sequence[TensorSpec], specs: dict[str, TensorSpec]
) -> dict[str, Any]:
    """A part in the manifest's engine section; lists, because that is what JSON has."""

    def plain(spec: TensorSpec) -> dict[str, Any]:
        return {**vars(spec), "shape": list(spec.shape)}

    return {
        "name": part.name,
        **{role: engine.engine[role] for role in GRAPHS if role in engine.engine},
        "inputs": [plain(spec) for spec in inputs],
        "outputs": [plain(specs[name]) for name in part.outputs],
    }


def _chained(runs: Sequence[tuple[Sequence[str], Run | None]], outputs: Sequence[str]) -> Run | None:
    able = [(names, run) for names, run in runs if run is not None]
    if len(able) < len(runs):
        return None

    def chained(feed: Arrays) -> Arrays:
        return in_turn(able, feed, outputs)

    return chained


def _joined(built: Sequence[BuiltEngine], described: Sequence[dict[str, Any]], run: Run | None) -> BuiltEngine:
    """The whole engine: what its parts execute is added up."""
    declared = [engine.declared for engine in built if engine.declared is not None]
    return dataclasses.replace(
        built[-1],
        engine={**built[-1].engine, "parts": list(described)},
        run=run,
        declared=dict(sum(map(Counter, declared), Counter[str]())) if declared else None,
        **vars(summed(built)),
    )
