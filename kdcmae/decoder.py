"""The joint decoder: from visible tokens of both modalities back to every patch's pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.config import PretrainingConfig
from kdcmae.encoder import Encoder
from kdcmae.layers import Block
from kdcmae.linear import Linear
from kdcmae.masking import View
from kdcmae.pos_embed import sincos_2d, trim_time

__all__ = ["AutoEncoder", "patchify_audio", "patchify_image", "unpatchify_audio", "unpatchify_image"]


class AutoEncoder(Encoder):
    """The encoder with the joint decoder; flat module names, as in the published checkpoints."""

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__(config)
        dim, patch_pixels = config.decoder_embed_dim, config.patch_size**2
        self.decoder_embed = Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_modality_a = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_modality_v = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed_a = nn.Parameter(sincos_2d(dim, *config.audio_grid), requires_grad=False)
        self.decoder_pos_embed_v = nn.Parameter(sincos_2d(dim, *config.image_grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(dim, config.decoder_num_heads, config.mlp_ratio, config.layer_norm_eps)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.decoder_pred_a = Linear(dim, patch_pixels)
        self.decoder_pred_v = Linear(dim, 3 * patch_pixels)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for token in (self.mask_token, self.decoder_modality_a, self.decoder_modality_v):
            nn.init.normal_(token, std=0.02)

    def decode(self, joint: Tensor, audio_view: View, video_view: View) -> tuple[Tensor, Tensor]:
        """Predict every patch from the visible tokens.

        Args:
            joint: (B, n_a + n_v, D) joint latent, kept audio tokens first, in packed order.
            audio_view, video_view: positions of these tokens.

        Returns:
            Audio patches (B, L_a, 256) in (frequency, time) order and image patches (B, L_v, 768) in
            (row, column, channel) order, as :func:`patchify_audio` and :func:`patchify_image` make them.
        """
        x = self._decoder_tokens(joint, audio_view, video_view)
        for block in self.decoder_blocks:
            x = block(x)
        kept_a, kept_v = audio_view.ids_keep.shape[1], video_view.ids_keep.shape[1]
        removed_a = audio_view.ids_restore.shape[1] - kept_a
        visible_a, visible_v, audio, video = self.decoder_norm(x).tensor_split(
            [kept_a, kept_a + kept_v, kept_a + kept_v + removed_a], dim=1
        )
        return (
            _restore(self.decoder_pred_a(torch.cat([visible_a, audio], dim=1)), audio_view),
            _restore(self.decoder_pred_v(torch.cat([visible_v, video], dim=1)), video_view),
        )

    def decode_removed(self, joint: Tensor, audio_view: View, video_view: View) -> tuple[Tensor, Tensor]:
        """Predict only the removed patches, which the reconstruction loss needs.

        Args:
            joint, audio_view, video_view: as for :meth:`decode`.

        Returns:
            Audio patches (B, L_a - n_a, 256) and image patches (B, L_v - n_v, 768), in the order of
            ``View.ids_removed``.
        """
        x = self._decoder_tokens(joint, audio_view, video_view)
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = block(x)
        x = self.decoder_norm(last(x, start=joint.shape[1]))
        audio, video = x.tensor_split([audio_view.ids_removed.shape[1]], dim=1)
        return self.decoder_pred_a(audio), self.decoder_pred_v(video)

    def _decoder_tokens(self, joint: Tensor, audio_view: View, video_view: View) -> Tensor:
        """(B, L_a + L_v, D) decoder input: visible audio, visible video, removed audio, removed video.

        Attention does not care about order: positions go where their tokens are, instead of tokens to their places.
        """
        rows, _ = self.encoder_config.audio_grid
        positions_a = trim_time(self.decoder_pos_embed_a, rows, audio_view.ids_restore.shape[1] // rows)

        def places(audio_ids: Tensor, video_ids: Tensor) -> Tensor:
            audio = F.embedding(audio_ids, positions_a.squeeze(0)) + self.decoder_modality_a
            video = F.embedding(video_ids, self.decoder_pos_embed_v.squeeze(0)) + self.decoder_modality_v
            return torch.cat([audio, video], dim=1)

        visible = self.decoder_embed(joint) + places(audio_view.ids_keep, video_view.ids_keep)
        removed = self.mask_token + places(audio_view.ids_removed, video_view.ids_removed)
        return torch.cat([visible, removed], dim=1)


def _restore(packed: Tensor, view: View) -> Tensor:
    """Reorder (B, L, P) patches, kept ones first, to their original positions."""
    return packed.gather(1, view.ids_restore.unsqueeze(-1).expand(-1, -1, packed.shape[-1]))


def patchify_audio(audio: Tensor, patch_size: int = 16) -> Tensor:
    """(B, T, F) spectrogram -> (B, L, p*p) patches, frequency-major, pixels in (frequency, time) order."""
    batch, frames, bins = audio.shape
    grid = audio.view(batch, frames // patch_size, patch_size, bins // patch_size, patch_size)
    return grid.permute(0, 3, 1, 4, 2).reshape(batch, -1, patch_size**2)


def unpatchify_audio(patches: Tensor, frames: int, patch_size: int = 16) -> Tensor:
    """The inverse of :func:`patchify_audio`: (B, L, p*p) -> (B, frames, F)."""
    batch, length, _ = patches.shape
    columns = frames // patch_size
    grid = patches.view(batch, length // columns, columns, patch_size, patch_size)
    return grid.permute(0, 2, 4, 1, 3).reshape(batch, frames, -1)


def patchify_image(image: Tensor, patch_size: int = 16) -> Tensor:
    """(B, 3, H, W) image -> (B, L, p*p*3) patches, row-major, pixels in (row, column, channel) order."""
    batch, channels, height, width = image.shape
    grid = image.view(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch_size**2 * channels)


def unpatchify_image(patches: Tensor, height: int, patch_size: int = 16) -> Tensor:
    """The inverse of :func:`patchify_image`: (B, L, p*p*3) -> (B, 3, height, W)."""
    batch, length, pixels = patches.shape
    rows = height // patch_size
    grid = patches.view(batch, rows, length // rows, patch_size, patch_size, pixels // patch_size**2)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, length // rows * patch_size)
