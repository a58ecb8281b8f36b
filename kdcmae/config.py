"""Configurations: frozen dataclasses, the presets, and how overrides are applied.

Only the builders (``from_preset``, the loaders) read these; layers take plain arguments. The resolved
configuration is stored in every checkpoint and engine.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from kdcmae.errors import ConfigError
from kdcmae.media.kinds import Modality
from kdcmae.media.resampling import Mono
from kdcmae.presets import PRESETS
from kdcmae.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "MODALITY_INPUTS",
    "PRESETS",
    "ClassifierConfig",
    "EncoderConfig",
    "Modality",
    "ObjectiveConfig",
    "PretrainingConfig",
    "from_mapping",
    "preset",
    "replace",
]

MODALITY_INPUTS: Mapping[str, tuple[str, ...]] = {
    "audiovisual": ("audio", "image"),
    "audio": ("audio",),
    "video": ("image",),
}
"""The inputs that a model of each modality takes."""
AudioMask = Literal["random", "time", "frequency", "time_frequency"]
Distillation = Literal["js", "kl", "none"]
Latent = Literal["joint", "audio", "video"]
Weighting = Literal["fixed", "uncertainty"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The audio-visual encoder shared by pretraining and finetuning.

    Args:
        audio_length (frames of 10 ms): length of the spectrogram, a multiple of ``patch_size``.
        mel_bins (mel bands): height of the spectrogram, a multiple of ``patch_size``.
        image_size (pixels): side of the square image, a multiple of ``patch_size``.
        patch_size (pixels): side of the square patches, for both modalities.
        embed_dim: token width D.
        num_heads: attention heads; divides ``embed_dim``.
        specific_depth (blocks): that see one modality only.
        unified_depth (blocks): shared by the joint, audio and video passes.
        mlp_ratio: hidden width of the MLP over ``embed_dim``.
        layer_norm_eps: epsilon of every LayerNorm.
        mono: what became of several channels in the sound that the model learned from, ``mean`` or ``left``.
        fbank_mean (natural log of energy): mean of the log-mel spectrograms that the model learned from, taken off
            every input; by default, as the next three, the published one.
        fbank_std (natural log of energy): standard deviation of those spectrograms, which divides every input.
        image_mean (of a range 0 to 1): mean of red, green and blue in the images that the model learned from, taken
            off every image.
        image_std (of a range 0 to 1): standard deviation of red, green and blue in those images, which divides every
            image.
    """

    audio_length: int = 1024
    mel_bins: int = 128
    image_size: int = 224
    patch_size: int = 16
    embed_dim: int = 768
    num_heads: int = 12
    specific_depth: int = 11
    unified_depth: int = 1
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5
    mono: Mono = Preprocessing.mono
    fbank_mean: float = Preprocessing.fbank_mean
    fbank_std: float = Preprocessing.fbank_std
    image_mean: tuple[float, float, float] = Preprocessing.image_mean
    image_std: tuple[float, float, float] = Preprocessing.image_std

    def __post_init__(self) -> None:
        for name in ("audio_length", "mel_bins", "image_size"):
            size = getattr(self, name)
            _require(
                size > 0 and size % self.patch_size == 0,
                f"{name}={size} must be a positive multiple of patch_size={self.patch_size}",
            )
        _require_heads(self.embed_dim, self.num_heads, "embed_dim", "num_heads")
        _require(self.specific_depth >= 0, f"specific_depth={self.specific_depth} must not be negative")
        _require(self.unified_depth >= 1, f"unified_depth={self.unified_depth} must be at least 1")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.preprocessing  # noqa: B018 - refuses statistics out of range

    @property
    def preprocessing(self) -> Preprocessing:
        """How a clip becomes the inputs of the model."""
        return Preprocessing(
            mono=self.mono,
            audio_frames=self.audio_length,
            fbank_mean=self.fbank_mean,
            fbank_std=self.fbank_std,
            image_size=self.image_size,
            image_mean=self.image_mean,
            image_std=self.image_std,
        )

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Audio patches as (frequency rows, time columns)."""
        return self.mel_bins // self.patch_size, self.audio_length // self.patch_size

    @property
    def image_grid(self) -> tuple[int, int]:
        """Image patches as (rows, columns)."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def audio_tokens(self) -> int:
        """Number of audio patches."""
        rows, columns = self.audio_grid
        return rows * columns

    @property
    def video_tokens(self) -> int:
        """Number of image patches."""
        rows, columns = self.image_grid
        return rows * columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Masks and losses of the pretraining objective (paper section 3).

    Args:
        mask_ratio (share of patches): removed from each view.
        views: masked views per sample.
        complementary: views keep disjoint patches; otherwise each draws its own permutation.
        audio_mask: which audio patches are removed together.
        norm_pix: reconstruct patches normalised to zero mean and unit variance.
        reconstruction_weight: of the squared error of removed patches in the loss; a term of weight 0 is still
            reported.
        contrastive_weight: in the loss, of telling which sound and image are of one clip.
        distillation_weight: in the loss, of the divergence between the views.
        weighting: ``fixed`` weights, or learned from them by ``uncertainty``.
        temperature: of the contrastive softmax.
        bidirectional: average both directions of the contrastive loss.
        distillation: divergence between the views: Jensen-Shannon (``js``), softmax Kullback-Leibler with a
            fixed teacher (``kl``), or ``none``.
        distillation_temperature: of the softmax in ``kl``.
        distilled_latents: which latents are compared: ``joint``, and the pooled ``audio`` and ``video``.
    """

    mask_ratio: float = 0.75
    views: int = 2
    complementary: bool = True
    audio_mask: AudioMask = "random"
    norm_pix: bool = True
    reconstruction_weight: float = 1.0
    contrastive_weight: float = 0.01
    distillation_weight: float = 10.0
    weighting: Weighting = "fixed"
    temperature: float = 0.05
    bidirectional: bool = False
    distillation: Distillation = "js"
    distillation_temperature: float = 1.0
    distilled_latents: tuple[Latent, ...] = ("joint",)

    def __post_init__(self) -> None:
        _require(0.0 <= self.mask_ratio < 1.0, f"mask_ratio={self.mask_ratio} must be in [0, 1)")
        _require(self.views >= 1, f"views={self.views} must be at least 1")
        _require(
            not self.complementary or self.views * (1 - self.mask_ratio) <= 1,
            f"{self.views} complementary views at mask_ratio={self.mask_ratio} need more patches than there are; "
            f"raise mask_ratio to {1 - 1 / self.views:.4g} or set complementary=False",
        )
        object.__setattr__(self, "distilled_latents", tuple(self.distilled_latents))
        for name, kind in (("audio_mask", AudioMask), ("distillation", Distillation), ("weighting", Weighting)):
            _require_choice(name, getattr(self, name), kind)
        for latent in self.distilled_latents:
            _require_choice("distilled_latents", latent, Latent)
        _require(len(self.distilled_latents) > 0, 'distilled_latents is empty; set distillation="none" instead')
        _require(
            self.audio_mask == "random" or self.views == 1 or not self.complementary,
            f"audio_mask={self.audio_mask!r} cannot be complementary over {self.views} views; set complementary=False",
        )
        for name in ("temperature", "distillation_temperature"):
            _require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be positive")
        for name in ("reconstruction_weight", "contrastive_weight", "distillation_weight"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} must not be negative")
        _require(len(self.loss_weights) > 0, "every loss has weight 0; give one a positive weight")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term that counts."""
        weights = {"reconstruction": self.reconstruction_weight, "contrastive": self.contrastive_weight}
        if self.views > 1 and self.distillation != "none":
            weights["distillation"] = self.distillation_weight
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig(EncoderConfig, ObjectiveConfig):
    """Encoder, decoder and objective of :class:`kdcmae.KDCMAE`.

    Args:
        decoder_embed_dim: token width of the decoder.
        decoder_depth (blocks): of the decoder.
        decoder_num_heads: attention heads of the decoder; divides ``decoder_embed_dim``.
    """

    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)
        ObjectiveConfig.__post_init__(self)
        _require_heads(self.decoder_embed_dim, self.decoder_num_heads, "decoder_embed_dim", "decoder_num_heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig(EncoderConfig):
    """Encoder and head of :class:`kdcmae.KDCMAEClassifier`.

    Args:
        num_classes: width of the head.
        modality: what was finetuned.
        multi_label: scores are independent sigmoids (AudioSet) rather than one softmax (VGGSound).
        labels: a name per class; empty for ``class_0``, ``class_1``, ...
    """

    num_classes: int
    modality: Modality = "audiovisual"
    multi_label: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", tuple(self.labels))
        _require(self.num_classes >= 1, f"num_classes={self.num_classes} must be at least 1")
        _require_choice("modality", self.modality, Modality)
        _require(
            len(self.labels) in (0, self.num_classes),
            f"{len(self.labels)} labels for num_classes={self.num_classes}: give one label per class",
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what the classifier takes: ``audio``, ``image``, or both."""
        return MODALITY_INPUTS[self.modality]

    @property
    def label_names(self) -> tuple[str, ...]:
        """One name per class, made up where none were given."""
        return self.labels or tuple(f"class_{index}" for index in range(self.num_classes))


def _require_choice(name: str, value: object, choices: Any) -> None:
    """``choices`` is a ``Literal``."""
    _require(value in get_args(choices), f"{name}={value!r} must be one of {', '.join(get_args(choices))}")


def _require_heads(width: int, heads: int, width_name: str, heads_name: str) -> None:
    _require(
        heads >= 1 and width % heads == 0,
        f"{width_name}={width} is not a multiple of {heads_name}={heads}; pass {heads_name}= with the right number",
    )
    _require(width % 4 == 0, f"{width_name}={width} must be a multiple of 4 for the 2-D sin-cos positions")


Config = TypeVar("Config", bound="DataclassInstance")


def preset(kind: type[Config], name: str, **overrides: Any) -> Config:
    """Build a configuration from a preset and overrides.

    Args:
        kind: the configuration class; preset entries it has no field for (a classifier has no decoder) are left out.
        name: a key of :data:`PRESETS`.
        overrides: fields that differ from the preset.

    Raises:
        ConfigError: an unknown preset or field, or a value out of range.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}{_nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    fields = {field.name for field in dataclasses.fields(kind)}
    sizes = {key: value for key, value in PRESETS[name].items() if key in fields}
    return from_mapping(kind, {**sizes, **overrides})


def from_mapping(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a configuration from a mapping; an unknown key raises with the nearest match.

    Raises:
        ConfigError: an unknown or missing key, or a value out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown setting {key!r} for {kind.__name__}{_nearest(key, fields)}")
    missing = [name for name, field in fields.items() if name not in values and field.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{kind.__name__} needs {', '.join(missing)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"a setting of {kind.__name__} has the wrong type: {error}") from error


def replace(config: Config, **overrides: Any) -> Config:
    """A copy of ``config`` with some fields changed, checked like :func:`from_mapping`."""
    kind = type(config)
    current = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return from_mapping(kind, {**current, **overrides})


def _nearest(key: str, known: Any) -> str:
    matches = difflib.get_close_matches(key, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
