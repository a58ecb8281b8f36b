"""Largest magnitudes inside a model, which fp16 must hold: it ends at 65504.

Measured while the float32 model computes the reference outputs, so that a build knows before the export what of the
model has to stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcmae.compile.lowering import InFloat32
from kdcmae.layers import Attention, Block, PatchEmbed

__all__ = ["FP16_LARGEST", "Peaks", "exceeds", "needed", "watched"]

FP16_LARGEST = float(torch.finfo(torch.float16).max)

# Clips of users may be louder than those of the proof: layers that reach a quarter of the limit stay float32 too.
_HEADROOM = 4.0


@dataclass
class Peaks:
    """The largest magnitudes seen in a float32 model.

    Args:
        residual: of the residual stream; 0 where nothing ran.
        layers: of operands and results of each layer, by the names of :func:`kdcmae.compile.lowering.layers_of`.
    """

    residual: float = 0.0
    layers: dict[str, float] = field(default_factory=dict)

    def see(self, layer: str, *values: Tensor) -> None:
        """Remember the largest magnitude in the values."""
        self.layers[layer] = max(self.layers.get(layer, 0.0), *map(_magnitude, values))

    def see_residual(self, values: Tensor) -> None:
        """The same, of the residual stream."""
        self.residual = max(self.residual, _magnitude(values))


@contextmanager
def watched(module: nn.Module, precision: str) -> Iterator[Peaks]:
    """Measure the largest magnitudes of whatever the module computes meanwhile.

    Args:
        module: float32.
        precision: of the engine; nothing is measured for one that holds what float32 holds.
    """
    peaks = Peaks()
    handles = []
    for name, child in module.named_modules() if precision == "fp16" else ():
        if isinstance(child, PatchEmbed):
            handles.append(child.register_forward_hook(partial(_see_embedding, peaks, name)))
        elif isinstance(child, Attention):
            handles.append(child.qkv.register_forward_hook(partial(_see_attention, peaks, name, child.num_heads)))
        elif isinstance(child, Block):
            handles.append(child.register_forward_hook(partial(_see_stream_behind, peaks)))
            # What reads the stream between the attention and the MLP.
            for norm in (child.norm2, child.norm2_a, child.norm2_v):
                handles.append(norm.register_forward_hook(partial(_see_stream_before, peaks)))
            for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                linear = child.get_submodule(layer)
                handles.append(linear.register_forward_hook(partial(_see_linear, peaks, f"{name}.{layer}")))
    try:
        yield peaks
    finally:
        for handle in handles:
            handle.remove()


def needed(peaks: Peaks) -> InFloat32:
    """What has to stay float32, as far as measured."""
    layers = tuple(name for name, peak in peaks.layers.items() if exceeds(peak))
    return InFloat32(residual=exceeds(peaks.residual), layers=layers)


def exceeds(peak: float) -> bool:
    """Whether a magnitude is too close to the largest fp16 value."""
    return peak * _HEADROOM >= FP16_LARGEST


def _see_stream_behind(peaks: Peaks, _: nn.Module, __: tuple[Any, ...], result: Tensor) -> None:
    peaks.see_residual(result)


def _see_stream_before(peaks: Peaks, _: nn.Module, operands: tuple[Tensor], __: Tensor) -> None:
    peaks.see_residual(operands[0])


def _see_linear(peaks: Peaks, name: str, _: nn.Module, operands: tuple[Tensor], result: Tensor) -> None:
    peaks.see(name, operands[0], result)


def _see_embedding(peaks: Peaks, name: str, embed: PatchEmbed, operands: tuple[Any, ...], result: Tensor) -> None:
    pixels, pos_embed, modality, ids_keep = operands
    peaks.see_residual(result)
    # The positions are a part of the stream; the product is what is left without them.
    product = type(embed).forward(embed, pixels, torch.zeros_like(pos_embed), torch.zeros_like(modality), ids_keep)
    peaks.see(name, pixels, product)


def _see_attention(
    peaks: Peaks, name: str, num_heads: int, _: nn.Module, operands: tuple[Tensor], result: Tensor
) -> None:
    """Of an attention's products, from the (B, L, 3D) queries, keys and values that ``qkv`` gives."""
    queries, keys, _values = torch.unflatten(result, -1, (3, num_heads, -1)).unbind(dim=-3)
    longest = [part.square().sum(dim=-1).amax(dim=1).sqrt() for part in (queries, keys)]
    # No score is larger than the product of their lengths (Cauchy and Schwarz).
    scores = longest[0] * longest[1] * queries.shape[-1] ** -0.5
    peaks.see(name, result, scores)


def _magnitude(values: Tensor) -> float:
    low, high = torch.aminmax(values)
    return float(torch.maximum(-low, high))
