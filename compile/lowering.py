"""Put the precision of an engine into the torch module, so that every later stage sees it in the graph.

Strongly typed engines (TensorRT 11, TensorRT for RTX) take precision from the graph alone, and a graph that names
its types can be checked before any device sees it. LayerNorm, softmax, pooling and the head stay float32: half
precision goes wrong there first.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.layers import Attention, Block, PatchEmbed, tokens_from

__all__ = ["DTYPES", "Precision", "lower"]

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def lower(module: nn.Module, precision: Precision) -> nn.Module:
    """A copy whose matrix products run in one dtype, with float32 outputs.

    Args:
        module: float32; not changed. The result may share its memory. A frontend inside it stays float32.
        precision: of weights, matrix products and the residual stream.
    """
    dtype = DTYPES[precision]
    # Cast one by one while copying, and shared where the type stays: a copy of everything would hold the weights twice.
    casts: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(own), requires_grad=False)
        for parameter, own in _dtypes(module, dtype).items()
    }
    lowered = copy.deepcopy(module, casts).eval().requires_grad_(False)
    for parent in list(lowered.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Attention):
                setattr(parent, name, _ExplicitAttention(child))
            elif isinstance(child, PatchEmbed):
                setattr(parent, name, _CastingPatchEmbed(child, dtype))
            elif isinstance(child, nn.LayerNorm):
                # The norms inside blocks feed matrix products; the others feed pooling and the head.
                setattr(parent, name, _Float32LayerNorm(child, dtype if isinstance(parent, Block) else torch.float32))
    return lowered


def _dtypes(module: nn.Module, dtype: torch.dtype) -> dict[nn.Parameter, torch.dtype]:
    """What each parameter becomes: those of norms and head are not even rounded."""
    exact = {
        parameter
        for child in module.modules()
        if isinstance(child, nn.LayerNorm | KDCMAEClassifier)
        for parameter in (child if isinstance(child, nn.LayerNorm) else child.mlp_head).parameters()
    }
    return {parameter: torch.float32 if parameter in exact else dtype for parameter in module.parameters()}


class _CastingPatchEmbed(nn.Module):
    """A patch embedding that takes float32 pixels, whatever it computes in."""

    def __init__(self, embed: PatchEmbed, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed = embed
        self.dtype = dtype

    def forward(self, pixels: Tensor, *others: Tensor | None) -> Tensor:
        return self.embed(pixels.to(self.dtype), *others)


class _ExplicitAttention(nn.Module):
    """Attention spelled out as products and a float32 softmax, so that exporters cannot choose its types."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        # Scaled before the heads are told apart, so that libraries can make the scale a part of the product.
        q = q * (x.shape[-1] // self.num_heads) ** -0.5
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-1, -2)
        weights = scores.float().softmax(dim=-1).to(v.dtype)
        return self.proj(tokens_from(start, (weights @ v).transpose(1, 2).flatten(2)))


class _Float32LayerNorm(nn.Module):
    """A LayerNorm computed in float32, whatever comes in, whose result has the given dtype."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.float(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.float(), requires_grad=False)
        self.eps = norm.eps
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps).to(self.dtype)
