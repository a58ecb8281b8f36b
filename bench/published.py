"""The published formulation of the pretraining step: the baseline that ours is measured against.

Every patch is embedded by a convolution and three quarters are thrown away by a gather whose index is repeated over
the width; each view has an encoder pass of its own; queries, keys and values are copied apart before attention. It
computes the same losses as :class:`kdcmae.KDCMAE`, from the same weights.

Source: the code of CAV-MAE (ICLR 2023), which KDC-MAE extends. Where it is ambiguous the cheaper reading is taken:
the patches are embedded once for all views, and each view puts its tokens back with its own ``ids_restore``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae import KDCMAE
from kdcmae.config import PretrainingConfig
from kdcmae.layers import Attention
from kdcmae.pos_embed import trim_time
from kdcmae.pretraining import Latents, MaskedPair

__all__ = ["Attend", "PublishedKDCMAE", "dense_embed_patches", "explicit_attention", "fused_attention"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention over contiguous queries, keys and values, each (B, H, L, head size)."""


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that writes out its scores, as the published code does."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return weights @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The vendor's attention: the one-line upgrade anybody would give the published code first."""
    return F.scaled_dot_product_attention(q, k, v)


def dense_embed_patches(
    pixels: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None
) -> Tensor:
    """Embed all patches by a convolution, then gather the kept ones; arguments of :func:`kdcmae.ops.embed_patches`."""
    image = pixels.unsqueeze(1).transpose(2, 3) if pixels.ndim == 3 else pixels
    tokens = F.conv2d(image, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    tokens = tokens + pos_embed + modality
    return tokens if ids_keep is None else torch.cat([_gather(tokens, ids) for ids in ids_keep])


class PublishedKDCMAE(KDCMAE):
    """:class:`kdcmae.KDCMAE`, computed the published way.

    Args:
        config: sizes and objective.
        attend: what attention does with q, k and v once they are apart.
    """

    def __init__(self, config: PretrainingConfig, attend: Attend = explicit_attention) -> None:
        super().__init__(config)
        for block in (*self.blocks_a, *self.blocks_v, *self.blocks_u, *self.decoder_blocks):
            block.attn = _UnpackedAttention(block.attn, attend)

    @classmethod
    def sharing(cls, model: KDCMAE, attend: Attend = explicit_attention) -> PublishedKDCMAE:
        """The same model computed the published way, on the same storage.

        Args:
            model: whose weights to use; gradients stay apart.
            attend: as above.
        """
        with torch.device("meta"):
            published = cls(model.config, attend)
        published.load_state_dict(model.state_dict(), assign=True)
        return published.train(model.training)

    def encode(self, audio: Tensor, image: Tensor, pairs: list[MaskedPair]) -> list[Latents]:
        """Embed densely, then encode view by view; arguments and result as in :meth:`kdcmae.KDCMAE.encode`."""
        rows, patch_size = self.config.audio_grid[0], self.config.patch_size
        positions = trim_time(self.pos_embed_a, rows, audio.shape[1] // patch_size)
        audio_patches = _embed_all(audio, self.patch_embed_a.proj, positions, self.modality_a)
        video_patches = _embed_all(image, self.patch_embed_v.proj, self.pos_embed_v, self.modality_v)
        return [
            self._encode_view(_gather(audio_patches, pair.audio.ids_keep), _gather(video_patches, pair.video.ids_keep))
            for pair in pairs
        ]

    def _encode_view(self, audio: Tensor, video: Tensor) -> Latents:
        for block in self.blocks_a:
            audio = block(audio)
        for block in self.blocks_v:
            video = block(video)
        return Latents(
            joint=self.unified(torch.cat([audio, video], dim=1), "shared"),
            audio=self.unified(audio, "audio").mean(dim=1),
            video=self.unified(video, "video").mean(dim=1),
        )


class _UnpackedAttention(nn.Module):
    """Attention that copies queries, keys and values apart; it takes over the projections of ``attention``."""

    def __init__(self, attention: Attention, attend: Attend) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self._attend = attend

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        context = self._attend(q.contiguous(), k.contiguous(), v.contiguous())
        return self.proj(context.transpose(1, 2).flatten(2))


def _embed_all(pixels: Tensor, proj: nn.Conv2d, pos_embed: Tensor, modality: Tensor) -> Tensor:
    assert proj.bias is not None  # Conv2d has one unless told otherwise
    return dense_embed_patches(pixels, proj.weight, proj.bias, pos_embed, modality, None)


def _gather(tokens: Tensor, ids: Tensor) -> Tensor:
    """Kept tokens (B, n, D) of (B, L, D), through an index as large as the result."""
    return tokens.gather(1, ids.unsqueeze(-1).repeat(1, 1, tokens.shape[-1]))
