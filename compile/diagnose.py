"""Find the first layer that computes something else than the PyTorch model does.

Module by module, the outputs of the float32 model are compared with the values that the exported graph names after the
same modules. First at the boundaries of the blocks, then inside the first block that is out of the gate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import cases, export
from kdcmae.compile.layers import (
    Values,
    compiled_values,
    layer_order,
    layer_outputs,
    layer_values,
    module_values,
    onnx_values,
    openvino_values,
    quantized_values,
)
from kdcmae.compile.lowering import InFloat32, Precision, layers_of, lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays, Case, cosine, relative_error
from kdcmae.compile.peaks import needed, watched
from kdcmae.compile.quantize.quantizer import Quantizer
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import load_target
from kdcmae.layers import Block
from kdcmae.progress import Step
from kdcmae.runtime.precisions import QUANTIZED, Gate
from kdcmae.runtime.targets import TARGETS

__all__ = ["Layer", "Stage", "blind", "compare_layers", "diagnose", "wider"]


_OPAQUE = ("trt", "torch-trt")  # their engines give no values from inside


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One module whose output was compared.

    Args:
        name: of the module.
        error, cosine: as the ladder measures them.
        passed: whether they are within the gate.
    """

    name: str
    error: float
    cosine: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "error": self.error if np.isfinite(self.error) else None}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's layers.

    Args:
        name: ``lowered``, ``onnx``, ``quantized`` or the target.
        case: the inputs that it was compared on.
        layers: those compared, in the order they run.
        first: the first of them that is out of the gate; None where none is.
    """

    name: str
    case: str = ""
    layers: tuple[Layer, ...]
    first: Layer | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "stage": self.name,
            "case": self.case,
            "first": self.first.name if self.first else None,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def diagnose(
    model: EngineModel, settings: CompileSettings, scratch: Path, *, engine: Mapping[str, Path], step: Step
) -> list[Stage]:
    """Compare stage by stage until the first with a layer out of its gate.

    Args:
        model: with its weights.
        settings: how it is, or was, built.
        scratch: an empty folder.
        engine: the engine's files by their names in the manifest's engine section, to look at instead of at a fresh
            export; empty for an export.
        step: shows progress.

    Returns:
        The stages compared, the last of them with the first layer that is out of its gate where there is any.

    Raises:
        MissingDependencyError: the target's library is not installed.
    """
    target = load_target(settings.target)
    if settings.target not in _OPAQUE:
        target.require()
    if model.parts is None or not target.splits_frontend:
        return _diagnose(model, settings, scratch, engine.get("file"), step)
    float32 = dataclasses.replace(settings, precision="fp32", execute_as="")
    found = _diagnose(model.parts.frontend, float32, scratch, engine.get("frontend"), step)
    stages = [dataclasses.replace(stage, name=f"{stage.name}, frontend") for stage in found]
    if stages[-1].first is None:
        stages += _diagnose(model.parts.body, settings, scratch, engine.get("file"), step)
    return stages


def blind(settings: CompileSettings) -> str:
    """What of a target's way is not compared here layer by layer, in words; empty where all of it is."""
    last = "quantized" if settings.precision in QUANTIZED else "onnx"
    if settings.target == "aoti":
        return "stage 'aoti' was compiled with the layers among its outputs: a package gives no values from inside"
    if settings.target in _OPAQUE:
        return f"compared up to stage {last!r}: an engine of {settings.target} gives no values from inside"
    if settings.target == "onnx" and settings.floating == "bf16":
        return f"compared up to stage {last!r}, widened to float32: {TARGETS['onnx'].cannot_run['bf16']}"
    return ""


def _diagnose(
    model: EngineModel, settings: CompileSettings, scratch: Path, engine: Path | None, step: Step
) -> list[Stage]:
    """The stages of a model that is one graph."""
    quantized = settings.precision in QUANTIZED
    if quantized:
        model = cases.on_clips(model)
    with step("inputs"), watched(model.module, settings.floating) as peaks:
        proofs = cases.proof(model, settings.batch, settings.clips, rounds=settings.precision != "fp32")
    with step("export"):
        lowered = lower(model.module, settings.floating, needed(peaks) or None)  # type: ignore[arg-type]
        exported = graph = scratch / "graph.onnx"
        export.export_onnx(model, export.export_program(model, lowered, settings.batch), graph)
        names = layer_values(graph)
        if settings.floating == "bf16":
            export.widened(graph, scratch / "widened.onnx")
            graph = scratch / "widened.onnx"
    walks: dict[str, Values] = {"lowered": module_values(model, lowered, names)}
    precision = settings.execute_as or settings.floating
    if engine is not None and settings.target == "openvino":
        walks |= {"onnx": onnx_values(graph), "openvino": openvino_values(engine, precision)}
    elif engine is not None and settings.target == "onnx":
        walks["onnx"] = onnx_values(engine)
    else:
        walks["onnx"] = onnx_values(graph)
        if not quantized and settings.target == "openvino":
            walks["openvino"] = openvino_values(exported, precision)
        if settings.target == "aoti":
            walks["aoti"] = compiled_values(
                model, lowered, names, batch=settings.batch, device=settings.device or "cpu", folder=scratch
            )
    stages: list[Stage] = []
    for name, values in walks.items():
        built = engine is not None and name == settings.target
        gate = settings.gate({settings.execute_as}) if built else settings.graph_gate()
        with step(f"compare {name}"):
            stages.append(_compared_on(proofs, model, names, values, gate, stage=name))
        if stages[-1].first is not None:
            return stages
    if quantized and engine is None:
        graph, _ = Quantizer(model, settings, step).quantize(exported)
        with step("compare quantized"):
            gate = settings.gate(set())
            stages.append(_compared_on(proofs, model, names, quantized_values(graph), gate, stage="quantized"))
    return stages


def _compared_on(
    proofs: Sequence[Case], model: EngineModel, names: Mapping[str, str], values: Values, gate: Gate, *, stage: str
) -> Stage:
    """The first case with a layer out of the gate; the last where there is none."""
    for case in proofs:
        found = compare_layers(model, names, values, case.inputs, gate, stage=stage)
        if found.first is not None:
            break
    return dataclasses.replace(found, case=case.name)


def compare_layers(
    model: EngineModel, names: Mapping[str, str], values: Values, inputs: Arrays, gate: Gate, *, stage: str
) -> Stage:
    """Walk the model's layers until the first whose output is out of the gate.

    Args:
        model: with its weights.
        names: the graph's value per module, as :func:`layer_values` gives it.
        values: runs the stage in question.
        inputs: one batch.
        gate: what every layer has to stay within; cosine counts where it has no largest error.
        stage: its name.
    """
    order = layer_order(model, names, inputs)
    coarse = [name for name in order if _depth(name) == 1]
    found = _compared(model, coarse, names, values, inputs, gate)
    first = _first(found)
    if first is None:
        return Stage(name=stage, layers=tuple(found), first=None)
    inside = [name for name in order if name.startswith(f"{first.name}.")]
    fine = _compared(model, inside, names, values, inputs, gate)
    before = found[: found.index(first)]
    return Stage(name=stage, layers=(*before, *fine, first), first=_first(fine) or first)


def wider(model: EngineModel, precision: Precision, kept: InFloat32, inputs: Arrays, gate: Gate) -> InFloat32 | None:
    """What to leave in float32 where a model in half precision is out of its gate.

    First that is the residual stream, then the layers that first leave the gate, then all of the block they are in.

    Args:
        model: float32, with its weights.
        precision: of the rest.
        kept: what is float32 already.
        inputs: one batch on which it is out of the gate.
        gate: of a layer's output.

    Returns:
        None where nothing more can help, or so much has to stay that the engine is none of that precision.
    """
    if not kept.residual:
        return dataclasses.replace(kept, residual=True)
    every = list(layers_of(model.module))
    blocks = [name for name, child in model.module.named_modules() if isinstance(child, Block)]
    names = {name: name for name in (*every, *blocks)}
    values = module_values(model, lower(model.module, precision, kept), names)
    stage = compare_layers(model, names, values, inputs, gate, stage="program")
    candidates = [layer for layer in stage.layers if _left(layer.name, every, kept)]
    if not candidates:
        return None
    culprit = stage.first or max(candidates, key=lambda layer: layer.error)
    block = next((name for name in blocks if culprit.name.startswith(f"{name}.")), culprit.name)
    more = _left(culprit.name, every, kept) or _left(block, every, kept)
    layers = (*kept.layers, *more)
    return dataclasses.replace(kept, layers=layers) if more and 2 * len(layers) <= len(every) else None


def _left(name: str, every: Sequence[str], kept: InFloat32) -> list[str]:
    """The layers at or below a module that are not float32 yet."""
    return [layer for layer in every if f"{layer}.".startswith(f"{name}.") and layer not in kept.layers]


def _compared(
    model: EngineModel, order: Sequence[str], names: Mapping[str, str], values: Values, inputs: Arrays, gate: Gate
) -> list[Layer]:
    if not order:
        return []
    expected = layer_outputs(model, model.module, order, inputs)
    found = values([names[name] for name in order], inputs)
    layers = []
    for name in order:
        actual = found.get(names[name])
        # A value of another shape is the same one before or after a change of layout.
        if actual is not None and actual.shape == expected[name].shape:
            layers.append(_layer(name, actual.astype(np.float32), expected[name], gate))
    return layers


def _layer(name: str, actual: NDArray[Any], expected: NDArray[Any], gate: Gate) -> Layer:
    error, angle = relative_error(actual, expected), cosine(actual, expected)
    passed = angle >= gate.min_cosine if gate.max_error is None else error <= gate.max_error
    return Layer(name=name, error=error, cosine=angle, passed=passed)


def _depth(name: str) -> int:
    """1 for a block or a layer beside the blocks, more for what is inside of one."""
    parts = name.split(".")
    while parts and parts[0] in ("classifier", "model"):
        parts = parts[1:]
    return len(parts) - sum(part.isdigit() for part in parts[:2])


def _first(layers: Iterable[Layer]) -> Layer | None:
    return next((layer for layer in layers if not layer.passed), None)
