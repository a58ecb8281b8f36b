"""The finetuned model: encoder, pooling and a linear head, with one path per set of inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdcmae import config as configs
from kdcmae.config import ClassifierConfig
from kdcmae.encoder import Encoder
from kdcmae.errors import DataError
from kdcmae.layers import Norms

__all__ = ["KDCMAEClassifier"]


class KDCMAEClassifier(Encoder):
    """Audio-visual, audio-only or video-only classifier.

    Args:
        config: sizes, classes and modality. Weights are drawn by :meth:`from_preset`; this constructor leaves
            the framework's defaults, for loaders that overwrite them.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.config = config
        self.mlp_head = nn.Sequential(
            nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps),
            nn.Linear(config.embed_dim, config.num_classes),
        )

    @classmethod
    def from_preset(
        cls, name: str, *, num_classes: int, modality: configs.Modality = "audiovisual", **overrides: Any
    ) -> KDCMAEClassifier:
        """A freshly initialised model.

        Args:
            name: a key of :data:`~kdcmae.config.PRESETS`.
            modality: ``audiovisual``, ``audio`` or ``video``.
            overrides: other fields of :class:`~kdcmae.config.ClassifierConfig`.

        Raises:
            ConfigError: an unknown preset or field, or a value out of range.
        """
        model = cls(configs.preset(ClassifierConfig, name, num_classes=num_classes, modality=modality, **overrides))
        model.reset_parameters()
        return model

    @property
    def labels(self) -> tuple[str, ...]:
        """One name per class."""
        return self.config.label_names

    def forward(
        self, audio: Tensor | None = None, image: Tensor | None = None, *, with_feature: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, num_classes); the finetuned modality and the given inputs determine the path.

        Args:
            audio: (B, T, 128) normalised fbank, or None.
            image: (B, 3, 224, 224) normalised, or None.
            with_feature: give the (B, D) feature before the head too.

        Raises:
            DataError: no input, or not the input of an audio-only or video-only model.
        """
        feature = self.pooled(audio, image)
        logits = self.mlp_head(feature)
        return (logits, feature) if with_feature else logits

    def pooled(self, audio: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        """The (B, D) feature before the head; the arguments of :meth:`forward`."""
        modality = self.config.modality
        if modality == "audio":
            return self._pool(self.audio_tokens(_given(audio, "audio", modality)), "audio")
        if modality == "video":
            return self._pool(self.video_tokens(_given(image, "image", modality)), "video")
        if audio is not None and image is not None:
            tokens = torch.cat([self.audio_tokens(audio), self.video_tokens(image)], dim=1)
            return self._pool(tokens, "shared")
        own: Norms
        # A modality is missing: average the joint pass over the present modality and its own pass.
        if audio is not None:
            tokens, own = self.audio_tokens(audio), "audio"
        else:
            tokens, own = self.video_tokens(_given(image, "audio or image", modality)), "video"
        return (self._pool(tokens, "shared") + self._pool(tokens, own)) / 2

    def _pool(self, tokens: Tensor, norms: Norms) -> Tensor:
        return self.unified(tokens, norms).mean(dim=1)


def _given(value: Tensor | None, name: str, modality: str) -> Tensor:
    if value is None:
        raise DataError(f"this model was finetuned on {modality}: give {name}")
    return value
