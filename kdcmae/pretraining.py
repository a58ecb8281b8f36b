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
    """Encoder outputs for one view.

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
            pairs: the views to use; drawn at random by default.
            generator: source of the random masks; with one per sample they do not depend on the other samples.
        """
        if pairs is None:
            pairs = self.sample_pairs(audio, generator)
        latents = self.encode(audio, image, pairs)
        reconstruction = self.reconstruct(audio, image, pairs, latents)
        with torch.autocast(audio.device.type, enabled=False):
            return self._score(reconstruction, latents)

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
            MaskedPair(audio_view.to(audio.device), video_view.to(audio.device))
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

    def reconstruct(
        self, audio: Tensor, image: Tensor, pairs: list[MaskedPair], latents: list[Latents]
    ) -> tuple[Tensor, Tensor]:
        """Decode the removed patches of every view in one pass, and score them.

        Args:
            audio: (B, T, 128). image: (B, 3, 224, 224).
            pairs, latents: the views and their outputs of :meth:`encode`.

        Returns:
            The audio and the video reconstruction loss, summed over the views.
        """
        audio_view = _stacked([pair.audio for pair in pairs])
        video_view = _stacked([pair.video for pair in pairs])
        joint = torch.cat([latent.joint for latent in latents])
        predicted_audio, predicted_video = self.decode_removed(joint, audio_view, video_view)
        patch_size = self.config.patch_size
        with torch.autocast(audio.device.type, enabled=False):
            # All views remove the same number of patches, so the sum of means is one mean times the number of views.
            return (
                len(pairs) * self._mean_error(predicted_audio, patchify_audio(audio, patch_size), audio_view),
                len(pairs) * self._mean_error(predicted_video, patchify_image(image, patch_size), video_view),
            )

    def forward_features(self, audio: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unmasked features for retrieval and localisation.

        Args:
            audio: (B, T, 128). image: (B, 3, 224, 224).

        Returns:
            Audio tokens (B, L_a, D) after ``norm_a`` and video tokens (B, L_v, D) after ``norm_v``.
        """
        return self.unified(self.audio_tokens(audio), "audio"), self.unified(self.video_tokens(image), "video")

    def _mean_error(self, predicted: Tensor, patches: Tensor, view: View) -> Tensor:
        """Mean squared error of (V*B, L - n, P) removed patches against (B, L, P) ones."""
        target = losses.normalised_patches(patches) if self.config.norm_pix else patches
        sample = torch.arange(len(view.ids_keep), device=patches.device).unsqueeze(1) % len(patches)
        return (predicted - target[sample, view.ids_removed]).square().mean()

    def _score(self, reconstruction: tuple[Tensor, Tensor], latents: list[Latents]) -> PretrainingOutput:
        config = self.config
        reconstruction_audio, reconstruction_video = reconstruction
        contrastive = accuracy = reconstruction_audio.new_zeros(())
        for latent in latents:
            contrastive = contrastive + losses.contrastive_loss(
                latent.audio, latent.video, temperature=config.temperature, bidirectional=config.bidirectional
            )
            accuracy = accuracy + losses.contrastive_accuracy(
                latent.audio, latent.video, bidirectional=config.bidirectional
            ) / len(latents)
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


def _stacked(views: list[View]) -> View:
    """Views of one batch as one view of the batch repeated, view-major."""
    return View(
        ids_keep=torch.cat([view.ids_keep for view in views]),
        ids_restore=torch.cat([view.ids_restore for view in views]),
    )
