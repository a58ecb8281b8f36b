"""The audio-visual encoder: modality-specific blocks, then unified blocks run three ways.

Shapes: B samples, T spectrogram frames, L tokens, D width. Audio tokens are frequency-major (index = row *
time columns + column), image tokens row-major. Module names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcmae.config import EncoderConfig
from kdcmae.errors import DataError
from kdcmae.layers import Block, Norms, PatchEmbed, initialise
from kdcmae.pos_embed import sincos_2d, trim_time

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """Patch embeddings, modality-specific blocks and the unified blocks with their norms."""

    assumed: str = ""
    """Assumptions of the checkpoint loader about input normalisation, in words; empty without any."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder_config = config
        dim = config.embed_dim

        def blocks(depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                Block(dim, config.num_heads, config.mlp_ratio, config.layer_norm_eps) for _ in range(depth)
            )

        self.patch_embed_a = PatchEmbed(1, config.patch_size, dim)
        self.patch_embed_v = PatchEmbed(3, config.patch_size, dim)
        self.modality_a = nn.Parameter(torch.zeros(1, 1, dim))
        self.modality_v = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed_a = nn.Parameter(sincos_2d(dim, *config.audio_grid))
        self.pos_embed_v = nn.Parameter(sincos_2d(dim, *config.image_grid))
        self.blocks_a = blocks(config.specific_depth)
        self.blocks_v = blocks(config.specific_depth)
        self.blocks_u = blocks(config.unified_depth)
        self.norm_a = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.norm_v = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)

    def reset_parameters(self) -> None:
        """Draw fresh weights, as the published code does."""
        self.apply(initialise)
        for token in (self.modality_a, self.modality_v):
            nn.init.normal_(token, std=0.02)

    def audio_tokens(self, audio: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed a spectrogram and run the audio blocks.

        Args:
            audio: (B, T, mel bins) normalised fbank; T a multiple of the patch size, at most ``audio_length``.
            ids_keep: (V, B, n) int64 kept patches per view, or None for all.

        Returns:
            (V*B, n, D), view-major; (B, L, D) without ``ids_keep``.

        Raises:
            DataError: a shape the model was not built for.
        """
        config = self.encoder_config
        rows, _ = config.audio_grid
        frames = audio.shape[1] if audio.ndim == 3 else 0
        if (
            audio.ndim != 3
            or audio.shape[2] != config.mel_bins
            or frames % config.patch_size
            or not 0 < frames <= config.audio_length
        ):
            raise DataError(
                f"audio has shape {tuple(audio.shape)}, expected (batch, frames, {config.mel_bins}) with frames a "
                f"multiple of {config.patch_size} up to {config.audio_length}; pad or cut the spectrogram"
            )
        pos_embed = trim_time(self.pos_embed_a, rows, frames // config.patch_size)
        x = self.patch_embed_a(audio, pos_embed, self.modality_a, ids_keep)
        for block in self.blocks_a:
            x = block(x)
        return x

    def video_tokens(self, image: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed an image and run the video blocks.

        Args:
            image: (B, 3, H, W), normalised, of the model's ``image_size``.
            ids_keep: (V, B, n) int64 kept patches per view, or None for all.

        Returns:
            (V*B, n, D), view-major; (B, L, D) without ``ids_keep``.

        Raises:
            DataError: a shape the model was not built for.
        """
        side = self.encoder_config.image_size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise DataError(f"image has shape {tuple(image.shape)}, expected (batch, 3, {side}, {side})")
        x = self.patch_embed_v(image, self.pos_embed_v, self.modality_v, ids_keep)
        for block in self.blocks_v:
            x = block(x)
        return x

    def unified(self, tokens: Tensor, norms: Norms) -> Tensor:
        """Chain the unified blocks and their final norm over (B, L, D), with the LayerNorms of one pass."""
        for block in self.blocks_u:
            tokens = block(tokens, norms)
        final = {"shared": self.norm, "audio": self.norm_a, "video": self.norm_v}[norms]
        return final(tokens)
