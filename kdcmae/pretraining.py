"""KDC-MAE: reconstruction, contrast and self-distillation over masked views of one audio-video pair.

Source: KDC-MAE (WACV 2025), on CAV-MAE (ICLR 2023). One encoder call handles any number of views by stacking
them on the batch, view-major.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdcmae import config as configs
from kdcmae import losses, masking
from kdcmae.config import PretrainingConfig
from kdcmae.decoder import AutoEncoder, patchify_audio, patchify_image
from kdcmae.masking import Generators, View

__all__ = ["KDCMAE", "Latents", "MaskedPair", "PretrainingOutput"]


@dataclass(frozen=True)
class MaskedPair:
    """One masked view of an audio-video pair; the two modalities' masks are independent."""

    audio: View
    video: View


@dataclass(frozen=True)
class Latents:
    """What the encoder makes of one view.

    Args:
        joint: (B, n_a + n_v, D) joint pass after ``norm``, kept audio tokens first, in packed order.
        audio, video: (B, D) pooled single-modality passes after ``norm_a`` and ``norm_v``.
    """

    joint: Tensor
    audio: Tensor
    video: Tensor


@dataclass(frozen=True)
class PretrainingOutput:
    """The weighted loss and its unweighted parts, each a scalar; reconstruction and contrast summed over views."""

    loss: Tensor
    reconstruction_audio: Tensor
    reconstruction_video: Tensor
    contrastive: Tensor
    contrastive_accuracy: Tensor
    distillation: Tensor


class KDCMAE(AutoEncoder):
    """The pretraining model.

    Args:
        config: sizes and objective. Weights are drawn by :meth:`from_preset`; this constructor leaves the
            framework's defaults, for loaders that overwrite them.
    """

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__(config)
        self.config = config
        self.pos_embed_a.requires_grad_(False)
        self.pos_embed_v.requires_grad_(False)
        weighting = {"fixed": losses.FixedWeighting, "uncertainty": losses.UncertaintyWeighting}[config.weighting]
        self.weighting = weighting(config.loss_weights)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> KDCMAE:
        """A freshly initialised model.

        Args:
            name: ``base``, ``small`` or ``tiny``.
            overrides: fields of :class:`~kdcmae.config.PretrainingConfig` that differ.

        Raises:
            ConfigError: an unknown preset or field, or a value out of range.
        """
        model = cls(configs.preset(PretrainingConfig, name, **overrides))
        model.reset_parameters()
        return model

    def forward(
        self,
        audio: Tensor,
        image: Tensor,
        *,
        pairs: list[MaskedPair] | None = None,
        generator: Generators = None,
    ) -> PretrainingOutput:
        """Mask, encode, decode and score a batch.

        Args:
            audio: (B, T, 128) normalised fbank.
            image: (B, 3, 224, 224) normalised.
            pairs: the views to use; drawn at random where not given.
            generator: source of the random masks; one per sample makes them independent of the batch around it.
        """
        if pairs is None:
            pairs = self.sample_pairs(audio, generator)
        latents = self.encode(audio, image, pairs)
        predictions = [
            self.decode(latent.joint, pair.audio, pair.video) for latent, pair in zip(latents, pairs, strict=True)
        ]
        with torch.autocast(audio.device.type, enabled=False):
            return self._score(audio, image, pairs, latents, predictions)

    def sample_pairs(self, audio: Tensor, generator: Generators = None) -> list[MaskedPair]:
        """Draw the configured views for a batch shaped like ``audio`` (B, T, 128), on its device."""
        config, batch = self.config, len(audio)
        grid = (config.audio_grid[0], audio.shape[1] // config.patch_size)
        draw = masking.complementary_views if config.complementary else masking.independent_views
        if config.audio_mask == "random":
            audio_views = draw(batch, grid[0] * grid[1], config.mask_ratio, config.views, generator)
        else:
            audio_views = masking.structured_views(
                batch, grid, config.mask_ratio, config.views, generator, axes=config.audio_mask
            )
        video_views = draw(batch, config.video_tokens, config.mask_ratio, config.views, generator)
        return [
            MaskedPair(_to(audio_view, audio.device), _to(video_view, audio.device))
            for audio_view, video_view in zip(audio_views, video_views, strict=True)
        ]

    def encode(self, audio: Tensor, image: Tensor, pairs: list[MaskedPair]) -> list[Latents]:
        """Encode every view of a batch in one pass.

        Args:
            audio: (B, T, 128). image: (B, 3, 224, 224).
            pairs: the views; all keep the same number of tokens.

        Returns:
            One :class:`Latents` per view.
        """
        audio_tokens = self.audio_tokens(audio, torch.stack([pair.audio.ids_keep for pair in pairs]))
        video_tokens = self.video_tokens(image, torch.stack([pair.video.ids_keep for pair in pairs]))
        joint = self.unified(torch.cat([audio_tokens, video_tokens], dim=1), "shared")
        pooled_audio = self.unified(audio_tokens, "audio").mean(dim=1)
        pooled_video = self.unified(video_tokens, "video").mean(dim=1)
        per_view = (tensor.chunk(len(pairs)) for tensor in (joint, pooled_audio, pooled_video))
        return [Latents(*parts) for parts in zip(*per_view, strict=True)]

    def forward_features(self, audio: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unmasked features for retrieval and localisation.

        Args:
            audio: (B, T, 128). image: (B, 3, 224, 224).

        Returns:
            Audio tokens (B, L_a, D) after ``norm_a`` and video tokens (B, L_v, D) after ``norm_v``.
        """
        return self.unified(self.audio_tokens(audio), "audio"), self.unified(self.video_tokens(image), "video")

    def _score(
        self,
        audio: Tensor,
        image: Tensor,
        pairs: list[MaskedPair],
        latents: list[Latents],
        predictions: list[tuple[Tensor, Tensor]],
    ) -> PretrainingOutput:
        config = self.config
        audio_target = patchify_audio(audio, config.patch_size)
        video_target = patchify_image(image, config.patch_size)
        reconstruction_audio = reconstruction_video = contrastive = accuracy = audio.new_zeros(())
        for pair, latent, (audio_patches, video_patches) in zip(pairs, latents, predictions, strict=True):
            reconstruction_audio = reconstruction_audio + losses.reconstruction_loss(
                audio_patches, audio_target, pair.audio.mask, norm_pix=config.norm_pix
            )
            reconstruction_video = reconstruction_video + losses.reconstruction_loss(
                video_patches, video_target, pair.video.mask, norm_pix=config.norm_pix
            )
            contrastive = contrastive + losses.contrastive_loss(
                latent.audio, latent.video, temperature=config.temperature, bidirectional=config.bidirectional
            )
            accuracy = accuracy + losses.contrastive_accuracy(
                latent.audio, latent.video, bidirectional=config.bidirectional
            ) / len(pairs)
        distillation = self._distil(latents)
        terms = {
            "reconstruction": reconstruction_audio + reconstruction_video,
            "contrastive": contrastive,
            "distillation": distillation,
        }
        return PretrainingOutput(
            loss=self.weighting(terms),
            reconstruction_audio=reconstruction_audio,
            reconstruction_video=reconstruction_video,
            contrastive=contrastive,
            contrastive_accuracy=accuracy,
            distillation=distillation,
        )

    def _distil(self, latents: list[Latents]) -> Tensor:
        """The configured divergence between the views, summed over the distilled latents."""
        config = self.config
        if len(latents) < 2 or config.distillation == "none":
            return torch.zeros((), device=latents[0].joint.device)
        divergences: dict[str, Callable[[list[Tensor]], Tensor]] = {
            "js": losses.distillation_loss,
            "kl": partial(losses.softmax_distillation_loss, temperature=config.distillation_temperature),
        }
        views = {
            "joint": [latent.joint for latent in latents],
            "audio": [latent.audio.unsqueeze(1) for latent in latents],
            "video": [latent.video.unsqueeze(1) for latent in latents],
        }
        divergence = divergences[config.distillation]
        return torch.stack([divergence(views[name]).mean() for name in config.distilled_latents]).sum()


def _to(view: View, device: torch.device) -> View:
    return View(ids_keep=view.ids_keep.to(device), ids_restore=view.ids_restore.to(device))
