"""Transformer building blocks, named as in the published checkpoints."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae import ops
from kdcmae.linear import Linear

__all__ = ["Attention", "Block", "Mlp", "Norms", "PatchEmbed", "initialise", "tokens_from"]

Norms = Literal["shared", "audio", "video"]
"""Which pair of LayerNorms a block uses: norm1/norm2, norm1_a/norm2_a or norm1_v/norm2_v."""


class PatchEmbed(nn.Module):
    """Patch weights; the embedding itself is :func:`kdcmae.ops.embed_patches`, which reads only kept patches."""

    def __init__(self, channels: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None) -> Tensor:
        """Embed all patches, or the kept patches of every view.

        Args:
            pixels: (B, T, F) spectrogram or (B, 3, H, W) image.
            pos_embed: (1, L, D).
            modality: (1, 1, D).
            ids_keep: (V, B, n) int64, or None for all patches.

        Returns:
            (V*B, n, D), view-major; (B, L, D) without ``ids_keep``.
        """
        bias = self.proj.bias
        assert bias is not None  # Conv2d has a bias by default
        return ops.embed_patches(pixels, self.proj.weight, bias, pos_embed, modality, ids_keep)


class Attention(nn.Module):
    """Multi-head self-attention over (B, L, D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(B, L, D) -> (B, L - start, D): attention of the tokens from ``start`` on over all tokens."""
        return self.proj(tokens_from(start, ops.attention(self.qkv(x), self.num_heads)))


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with three pairs of LayerNorm around shared attention and MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.norm1_a = nn.LayerNorm(dim, eps=eps)
        self.norm1_v = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.norm2_a = nn.LayerNorm(dim, eps=eps)
        self.norm2_v = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, norms: Norms = "shared", start: int = 0) -> Tensor:
        """(B, L, D) -> (B, L - start, D), through the LayerNorms that ``norms`` names.

        Tokens before ``start`` are attended to, but nothing else is computed for them.
        """
        norm1, norm2 = {
            "shared": (self.norm1, self.norm2),
            "audio": (self.norm1_a, self.norm2_a),
            "video": (self.norm1_v, self.norm2_v),
        }[norms]
        x = tokens_from(start, x) + self.attn(norm1(x), start)
        return x + self.mlp(norm2(x))


def tokens_from(start: int, x: Tensor) -> Tensor:
    """The tokens of (B, L, D) from ``start`` on; no slice is added to an exported graph if ``start`` is 0."""
    return x[:, start:] if start else x


def initialise(module: nn.Module) -> None:
    """Initialise one module as the published code does; use with ``model.apply``.

    Xavier-uniform on Linear weights and on patch weights seen as 2-D, zero Linear biases. LayerNorms keep
    their 1 and 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.data.view(module.proj.out_channels, -1))
