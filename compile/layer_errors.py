"""The error of each layer of a stage, and the first layer that is out of the gate.

Module by module, the outputs of the float32 model are compared with what the stage has for the same modules: first at
the boundaries of the blocks, then inside the first block that is out of the gate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.layers import layer_order, layer_outputs, module_values
from kdcmae.compile.lowering import InFloat32, Precision, layers_of, lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import cosine, relative_error
from kdcmae.compile.stages import Values
from kdcmae.layers import Block
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.precisions import Gate

__all__ = ["Diagnosis", "Layer", "compare_layers", "wider"]


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
class Diagnosis:
    """The layers of one stage of a build.

    Args:
        stage: ``lowered``, ``onnx``, ``quantized`` or the target.
        case: the inputs that it was compared on.
        layers: those compared, in the order they run.
        first: the first of them that is out of the gate; None where none is.
    """

    stage: str
    case: str = ""
    layers: tuple[Layer, ...]
    first: Layer | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "stage": self.stage,
            "case": self.case,
            "first": self.first.name if self.first else None,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def compare_layers(
    model: EngineModel, values: Values, inputs: Arrays, gate: Gate, *, stage: str, among: Collection[str] | None = None
) -> Diagnosis:
    """Walk the model's layers until the first whose output is out of the gate.

    Args:
        model: with its weights.
        values: the outputs of modules as the stage in question computes them.
        gate: what every layer has to stay within; cosine counts where it has no largest error.
        among: names of the layers to compare; all where None.
    """
    order = [name for name in layer_order(model, inputs) if among is None or name in among]
    outer = [name for name in order if _depth(name) == 1]
    layers = _compared(model, outer, values, inputs, gate)
    first = _first(layers)
    if first is None:
        return Diagnosis(stage=stage, layers=tuple(layers), first=None)
    inside = [name for name in order if name.startswith(f"{first.name}.")]
    inner = _compared(model, inside, values, inputs, gate)
    before = layers[: layers.index(first)]
    return Diagnosis(stage=stage, layers=(*before, *inner, first), first=_first(inner) or first)


def wider(model: EngineModel, precision: Precision, kept: InFloat32, inputs: Arrays, gate: Gate) -> InFloat32 | None:
    """What to leave in float32 where a model in half precision is out of its gate.

    First that is the residual stream, then the layers that first leave the gate, then all of the block they are in.

    Args:
        model: float32, with its weights.
        kept: what is float32 already.
        inputs: one batch on which it is out of the gate.

    Returns:
        None where nothing more can help, or so much has to stay that the engine is none of that precision.
    """
    if not kept.residual:
        return dataclasses.replace(kept, residual=True)
    every = list(layers_of(model.module))
    blocks = [name for name, child in model.module.named_modules() if isinstance(child, Block)]
    values = module_values(model, lower(model.module, precision, kept))
    diagnosis = compare_layers(model, values, inputs, gate, stage="program", among={*every, *blocks})
    candidates = [layer for layer in diagnosis.layers if _left(layer.name, every, kept)]
    if not candidates:
        return None
    culprit = diagnosis.first or max(candidates, key=lambda layer: layer.error)
    block = next((name for name in blocks if culprit.name.startswith(f"{name}.")), culprit.name)
    more = _left(culprit.name, every, kept) or _left(block, every, kept)
    layers = (*kept.layers, *more)
    return dataclasses.replace(kept, layers=layers) if more and 2 * len(layers) <= len(every) else None


def _left(name: str, every: Sequence[str], kept: InFloat32) -> list[str]:
    """The layers at or below a module that are not float32 yet."""
    return [layer for layer in every if f"{layer}.".startswith(f"{name}.") and layer not in kept.layers]


def _compared(model: EngineModel, order: Sequence[str], values: Values, inputs: Arrays, gate: Gate) -> list[Layer]:
    if not order:
        return []
    expected = layer_outputs(model, model.module, order, inputs)
    computed = values(order, inputs)
    layers = []
    for name in order:
        actual = computed.get(name)
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
