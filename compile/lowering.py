"""Put the precision of an engine into the torch module, so that every later stage sees it in the graph.

Strongly typed engines (TensorRT 11, TensorRT for RTX) take precision from the graph alone, and a graph that names
its types can be checked before any device sees it. LayerNorm, softmax, pooling and the head stay float32: half
precision goes wrong there first. Of a model whose activations fp16 cannot hold more stays float32, see
:class:`InFloat32`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.encoder import Encoder
from kdcmae.layers import Attention, Block, PatchEmbed, tokens_from
from kdcmae.runtime.precisions import FLOATING, PRECISIONS

__all__ = ["DTYPES", "InFloat32", "Precision", "layers_of", "lower", "usual"]

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, PRECISIONS[name].torch) for name in FLOATING}


@dataclass(frozen=True, kw_only=True)
class InFloat32:
    """What of a model in half precision stays float32, beside norms, softmax, pooling and the head.

    Args:
        residual: the residual stream: positions, and the sums that attention and MLP are added to.
        layers: names of modules of :func:`layers_of`, whose products, operands and results are float32.
    """

    residual: bool = False
    layers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.residual or bool(self.layers)


def usual(precision: Precision) -> InFloat32:
    """What stays float32 of every model.

    In bfloat16 that is the residual stream, as under autocast in training. bfloat16 has 8 significant bits, every block
    adds to the stream, and in float32 it was measured to round less in the same time (docs/precision.md). fp16 has 11.
    """
    return InFloat32(residual=precision == "bf16")


def layers_of(module: nn.Module) -> Iterator[str]:
    """Names of the modules that :func:`lower` can leave in float32 one by one.

    An attention stands for the products between its two linear layers, which have names of their own.
    """
    for name, child in module.named_modules():
        if isinstance(child, PatchEmbed):
            yield name
        elif isinstance(child, Block):
            yield from (f"{name}.{layer}" for layer in ("attn.qkv", "attn", "attn.proj", "mlp.fc1", "mlp.fc2"))


def lower(module: nn.Module, precision: Precision, kept: InFloat32 | None = None) -> nn.Module:
    """A copy whose matrix products run in one dtype, with float32 outputs.

    Args:
        module: float32; not changed. The result may share its memory. A frontend inside it stays float32.
        precision: of weights, matrix products and, but for bf16, the residual stream.
        kept: what of them stays float32; the :func:`usual` where None.
    """
    dtype = DTYPES[precision]
    kept = usual(precision) if kept is None else kept
    # Cast one by one while copying, and shared where the type stays: a copy of everything would hold the weights twice.
    casts: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(own), requires_grad=False)
        for parameter, own in _dtypes(module, dtype, kept).items()
    }
    lowered = copy.deepcopy(module, casts).eval().requires_grad_(False)
    if kept.layers:
        for name in layers_of(module):
            if isinstance(layer := lowered.get_submodule(name), nn.Linear):
                lowered.set_submodule(name, _CastingLinear(layer))
    for path, parent in list(lowered.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Attention):
                own = torch.float32 if f"{path}.{name}" in kept.layers else dtype
                setattr(parent, name, _ExplicitAttention(child, own))
            elif isinstance(child, PatchEmbed):
                setattr(parent, name, _CastingPatchEmbed(child))
            elif isinstance(child, nn.LayerNorm):
                setattr(parent, name, _Float32LayerNorm(child, _read_as(parent, name)))
    return lowered


def _dtypes(module: nn.Module, dtype: torch.dtype, kept: InFloat32) -> dict[nn.Parameter, torch.dtype]:
    """What each parameter becomes: those of norms and head are not even rounded."""
    exact: set[nn.Parameter] = set()
    for name, child in module.named_modules():
        if isinstance(child, KDCMAEClassifier):
            exact.update(child.mlp_head.parameters())
        if isinstance(child, Encoder) and kept.residual:
            exact.update((child.pos_embed_a, child.pos_embed_v, child.modality_a, child.modality_v))
        if isinstance(child, nn.LayerNorm) or (name in kept.layers and not isinstance(child, Attention)):
            exact.update(child.parameters())
    return {parameter: torch.float32 if parameter in exact else dtype for parameter in module.parameters()}


def _read_as(parent: nn.Module, norm: str) -> torch.dtype:
    """The type of a norm's result: those inside blocks feed matrix products, the others pooling and the head."""
    if not isinstance(parent, Block):
        return torch.float32
    return (parent.attn.qkv if norm.startswith("norm1") else parent.mlp.fc1).weight.dtype


class _CastingPatchEmbed(nn.Module):
    """A patch embedding that takes float32 pixels, whatever it computes in."""

    def __init__(self, embed: PatchEmbed) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, pixels: Tensor, *others: Tensor | None) -> Tensor:
        tokens: Tensor = self.embed(pixels.to(self.embed.proj.weight.dtype), *others)
        return tokens


class _CastingLinear(nn.Module):
    """A linear layer that takes what its neighbours give, in whatever type, and computes in that of its weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_as(self.weight.dtype, x), self.weight, self.bias)


class _ExplicitAttention(nn.Module):
    """Attention spelled out as products and a float32 softmax, so that exporters cannot choose its types."""

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.dtype = dtype

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        q, k, v = _as(self.dtype, self.qkv(x)).chunk(3, -1)
        # Scaled before the heads are told apart, so that libraries can make the scale a part of the product.
        q = q * (x.shape[-1] // self.num_heads) ** -0.5
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-1, -2)
        weights = scores.float().softmax(dim=-1).to(v.dtype)
        projected: Tensor = self.proj(tokens_from(start, (weights @ v).transpose(1, 2).flatten(2)))
        return projected


def _as(dtype: torch.dtype, x: Tensor) -> Tensor:
    """The same in another type; an exported graph gets no conversion that changes nothing."""
    return x if x.dtype == dtype else x.to(dtype)


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
