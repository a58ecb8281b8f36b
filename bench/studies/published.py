"""The published formulation of the pretraining step: the baseline that ours is measured against.

Every patch is embedded by a convolution and three quarters are thrown away by a gather whose index is repeated over
the width; each view has an encoder and a decoder pass of its own; queries, keys and values are copied apart before
attention; every patch is predicted and compared with the target, and a mask picks the removed ones. It computes the
same losses as :class:`kdcmae.KDCMAE`, from the same weights.

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
from kdcmae.decoder import patchify_audio, patchify_image
from kdcmae.layers import Attention, tokens_from
from kdcmae.linear import Linear
from kdcmae.losses import reconstruction_loss
from kdcmae.masking import View
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
    """The vendor's attention, which is the first upgrade of the published code: it takes one line."""
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
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, Linear):
                    setattr(parent, name, nn.Linear(child.in_features, child.out_features))

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

    def reconstruct(
        self, audio: Tensor, image: Tensor, pairs: list[MaskedPair], latents: list[Latents]
    ) -> tuple[Tensor, Tensor]:
        """Predict and score every patch, view by view; as :meth:`kdcmae.KDCMAE.reconstruct`."""
        audio_losses, video_losses = [], []
        for pair, latent in zip(pairs, latents, strict=True):
            audio_patches, video_patches = self.decode(latent.joint, pair.audio, pair.video)
            with torch.autocast(audio.device.type, enabled=False):
                audio_losses.append(self._masked_error(audio_patches, patchify_audio(audio), pair.audio))
                video_losses.append(self._masked_error(video_patches, patchify_image(image), pair.video))
        return torch.stack(audio_losses).sum(), torch.stack(video_losses).sum()

    def decode(self, joint: Tensor, audio_view: View, video_view: View) -> tuple[Tensor, Tensor]:
        """Put tokens back in their places, then decode; arguments and result as in :meth:`kdcmae.KDCMAE.decode`."""
        rows, length = self.config.audio_grid[0], audio_view.ids_restore.shape[1]
        audio, video = self.decoder_embed(joint).tensor_split([audio_view.ids_keep.shape[1]], dim=1)
        x = torch.cat([self._restore(audio, audio_view), self._restore(video, video_view)], dim=1)
        positions = trim_time(self.decoder_pos_embed_a, rows, length // rows)
        x = x + torch.cat([positions, self.decoder_pos_embed_v], dim=1)
        x = torch.cat([x[:, :length] + self.decoder_modality_a, x[:, length:] + self.decoder_modality_v], dim=1)
        for block in self.decoder_blocks:
            x = block(x)
        x = self.decoder_norm(x)
        return self.decoder_pred_a(x[:, :length]), self.decoder_pred_v(x[:, length:])

    def _restore(self, visible: Tensor, view: View) -> Tensor:
        length = view.ids_restore.shape[1]
        filling = self.mask_token.repeat(len(visible), length - visible.shape[1], 1)
        return _gather(torch.cat([visible, filling.to(visible.dtype)], dim=1), view.ids_restore)

    def _masked_error(self, prediction: Tensor, target: Tensor, view: View) -> Tensor:
        return reconstruction_loss(prediction, target, view.mask, norm_pix=self.config.norm_pix)

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

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        context = self._attend(q.contiguous(), k.contiguous(), v.contiguous())
        return self.proj(tokens_from(start, context.transpose(1, 2).flatten(2)))


def _embed_all(pixels: Tensor, proj: nn.Conv2d, pos_embed: Tensor, modality: Tensor) -> Tensor:
    assert proj.bias is not None  # Conv2d has one unless told otherwise
    return dense_embed_patches(pixels, proj.weight, proj.bias, pos_embed, modality, None)


def _gather(tokens: Tensor, ids: Tensor) -> Tensor:
    """Kept tokens (B, n, D) of (B, L, D), through an index as large as the result."""
    return tokens.gather(1, ids.unsqueeze(-1).repeat(1, 1, tokens.shape[-1]))
