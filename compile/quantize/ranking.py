"""Per-layer sensitivity to quantisation: the error of the outputs when only that layer is quantised.

The quantisation is simulated in the PyTorch model, so that a layer costs one pass over a few clips and no build.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize.calibration import Clips
from kdcmae.layers import Block
from kdcmae.runtime.arrays import Arrays

__all__ = ["linear_layers", "sensitivity"]

# Parameters times samples that a pass may take: eight clips of a small model, one of the base model.
_WORK = 200_000_000
_CLIPS = 8


def linear_layers(module: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers inside transformer blocks, in the order of the module."""
    return tuple(
        f"{name}.{inner}"
        for name, block in module.named_modules()
        if isinstance(block, Block)
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    )


def sensitivity(model: EngineModel, clips: Clips) -> dict[str, float]:
    """The error of the outputs per quantised layer.

    Args:
        model: float32, with its weights; unchanged afterwards.
        clips: at least one batch.

    Returns:
        Per layer, the root mean square of the outputs' error over that of the outputs. Layers that these inputs do
        not reach have 0.
    """
    feed = _few(clips, model.facts["parameters"])
    expected = models.run(model, model.module, feed)
    errors = {}
    for name in linear_layers(model.module):
        layer = model.module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        with _quantized(layer):
            errors[name] = _relative(models.run(model, model.module, feed), expected)
    return errors


def _few(clips: Clips, parameters: int) -> Arrays:
    """The first clips as one batch."""
    samples = max(1, min(_CLIPS, clips.count, _WORK // parameters))
    return {
        name: np.concatenate([batch[name] for batch in clips.batches[:samples]])[:samples] for name in clips.batches[0]
    }


@contextmanager
def _quantized(layer: nn.Linear) -> Iterator[None]:
    """Eight bits for a layer: its weights symmetric per output channel, its input over its own range."""
    weight = layer.weight.data
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    hook = layer.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0]),))
    layer.weight.data = (weight / step).round() * step
    try:
        yield
    finally:
        layer.weight.data = weight
        hook.remove()


def _rounded(x: Tensor) -> Tensor:
    low = x.min()
    step = (x.max() - low) / 255
    return ((x - low) / step).round() * step + low


def _relative(actual: Arrays, expected: Arrays) -> float:
    error = sum(float(np.square(actual[name] - expected[name]).sum()) for name in expected)
    power = sum(float(np.square(array).sum()) for array in expected.values())
    return float(np.sqrt(error / power)) if power else 0.0
