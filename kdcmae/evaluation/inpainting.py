"""Inpainting: how well a pretraining model fills in removed patches (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128), ``image`` (B, 3, S, S) and ``index`` (B,), the clips'
numbers: tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdcmae import masking
from kdcmae.config import AudioMask
from kdcmae.decoder import patchify_audio, patchify_image, unpatchify_audio, unpatchify_image
from kdcmae.errors import ConfigError, DataError
from kdcmae.evaluation.pictures import (
    Picture,
    Shown,
    brightness,
    held_frames,
    image_picture,
    side_by_side,
    spectrogram_picture,
    without_removed,
)
from kdcmae.pretraining import KDCMAE, MaskedPair
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = [
    "Filled",
    "Inpainting",
    "MaskSettings",
    "Reconstruction",
    "clip_errors",
    "draw_reconstruction",
    "inpaint",
    "joined",
    "summarize",
]


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Which patches are removed.

    Args:
        ratio: share of patches removed from each modality.
        audio: which audio patches are removed together; image patches are removed at random.
        seed: a clip's masks depend only on it and on the clip's number.
    """

    ratio: float = 0.75
    audio: AudioMask = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(f"mask ratio {self.ratio} must be between 0 and 1")


@dataclass(frozen=True, eq=False)
class Filled:
    """One modality of a batch, on the CPU; ``...`` stands for (T, F) or (3, S, S).

    Args:
        given: (B, ...) the clips' own content.
        removed: (B, ...) bool.
        filled: (B, ...) the prediction where patches were removed, and the clips' content elsewhere.
        error: (B,) mean squared error over the removed patches, in the values the model was trained to predict.
        constant_error: (B,) the error of one constant per clip: the mean of its visible values, or 0 where the model
            predicts normalised patches.
    """

    given: Tensor
    removed: Tensor
    filled: Tensor
    error: Tensor
    constant_error: Tensor


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A batch filled in; ``index`` (B,) are the clips' numbers."""

    index: Tensor
    audio: Filled
    image: Filled


@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """Result of an inpainting.

    Args:
        clips: number of clips.
        norm_pix: errors are of patches normalised by their own mean and variance, which the model was trained to
            predict; otherwise of normalised spectrograms and images.
        audio_mse, video_mse: mean squared error over removed patches.
        audio_constant_mse, video_constant_mse: of filling in one constant per clip; see :class:`Filled`.
    """

    clips: int
    norm_pix: bool
    audio_mse: float
    video_mse: float
    audio_constant_mse: float
    video_constant_mse: float


@torch.inference_mode()
def inpaint(model: KDCMAE, batches: Iterable[Mapping[str, Tensor]], masks: MaskSettings) -> Iterator[Reconstruction]:
    """Remove patches of every clip and let the model fill them in.

    Args:
        model: in evaluation mode. One trained with ``norm_pix`` predicts patches without their mean and contrast;
            its pictures take both from the removed patches.
    """
    device = model.mask_token.device
    for batch in batches:
        audio, image = batch["audio"].to(device), batch["image"].to(device)
        pair = _pair(model, audio, batch["index"], masks)
        (latents,) = model.encode(audio, image, [pair])
        audio_patches, image_patches = model.decode(latents.joint, pair.audio, pair.video)
        patch_size, norm_pix = model.config.patch_size, model.config.norm_pix
        yield Reconstruction(
            index=batch["index"],
            audio=_fill(
                audio_patches,
                patchify_audio(audio, patch_size),
                pair.audio.mask,
                partial(unpatchify_audio, frames=audio.shape[1], patch_size=patch_size),
                norm_pix=norm_pix,
            ),
            image=_fill(
                image_patches,
                patchify_image(image, patch_size),
                pair.video.mask,
                partial(unpatchify_image, height=image.shape[2], patch_size=patch_size),
                norm_pix=norm_pix,
            ),
        )


def summarize(reconstructions: Iterable[Reconstruction], *, norm_pix: bool) -> Inpainting:
    """Mean errors over all clips.

    Args:
        reconstructions: from :func:`inpaint`.
        norm_pix: of the model's configuration.

    Raises:
        DataError: no clips, or errors that are not finite.
    """
    modalities = ((batch.audio, batch.image) for batch in reconstructions)
    errors = [torch.stack([part for side in pair for part in (side.error, side.constant_error)]) for pair in modalities]
    if not errors:
        raise DataError("no clips to evaluate")
    per_clip = torch.cat(errors, dim=1).double()
    if not per_clip.isfinite().all():
        raise DataError("the reconstruction errors are not finite; the checkpoint or a clip is damaged")
    audio, audio_constant, video, video_constant = per_clip.mean(dim=1).tolist()
    return Inpainting(
        clips=per_clip.shape[1],
        norm_pix=norm_pix,
        audio_mse=audio,
        video_mse=video,
        audio_constant_mse=audio_constant,
        video_constant_mse=video_constant,
    )


def draw_reconstruction(reconstruction: Reconstruction, row: int, preprocessing: Preprocessing) -> dict[str, Shown]:
    """Draw one clip: original, masked and filled in.

    Args:
        row: of the clip in it.

    Returns:
        ``sound original``, ``sound masked`` and ``sound filled in``, without the clip's padding, and the same of
        ``frame``.
    """
    given = reconstruction.audio.given[row].numpy()
    held = slice(held_frames(given, preprocessing))
    lowest, highest = brightness(given[held])
    seconds = len(given[held]) * preprocessing.frame_shift / preprocessing.sample_rate_hz

    def draw_sound(values: Tensor) -> Shown:
        return Shown(spectrogram_picture(values[held].numpy(), lowest, highest), seconds)

    def draw_frame(values: Tensor) -> Shown:
        return Shown(image_picture(values.numpy(), preprocessing))

    sounds = _panels(reconstruction.audio, row, draw_sound, reconstruction.audio.removed[row, held].T.flip(0))
    frames = _panels(reconstruction.image, row, draw_frame, reconstruction.image.removed[row, 0])
    return {f"{kind} {name}": shown for kind, drawn in (("sound", sounds), ("frame", frames)) for name, shown in drawn}


def joined(pictures: Mapping[str, Shown]) -> dict[str, Picture]:
    """The panels of :func:`draw_reconstruction` in two pictures, ``audio`` and ``image``."""
    return {
        name: side_by_side([shown.picture for panel, shown in pictures.items() if panel.startswith(kind)])
        for name, kind in (("audio", "sound"), ("image", "frame"))
    }


def clip_errors(reconstruction: Reconstruction, row: int) -> dict[str, float]:
    """The errors of one clip, with the names of the mean errors.

    Args:
        row: of the clip in it.
    """
    return {
        "audio_mse": float(reconstruction.audio.error[row]),
        "video_mse": float(reconstruction.image.error[row]),
        "audio_constant_mse": float(reconstruction.audio.constant_error[row]),
        "video_constant_mse": float(reconstruction.image.constant_error[row]),
    }


def _panels(filled: Filled, row: int, draw: Callable[[Tensor], Shown], removed: Tensor) -> list[tuple[str, Shown]]:
    """Original, masked and filled-in panels; ``removed`` has the orientation of the pictures."""
    before, after = draw(filled.given[row]), draw(filled.filled[row])
    left = Shown(without_removed(before.picture, removed.numpy()), before.seconds)
    return [("original", before), ("masked", left), ("filled in", after)]


def _pair(model: KDCMAE, audio: Tensor, index: Tensor, masks: MaskSettings) -> MaskedPair:
    """One masked view per clip, each from the clip's own generator."""
    config = model.config
    grid = (config.audio_grid[0], audio.shape[1] // config.patch_size)
    # A hash, because generators with similar seeds draw similar numbers.
    generators = [torch.Generator().manual_seed(1_000_003 * masks.seed + number) for number in index.tolist()]
    if masks.audio == "random":
        (audio_view,) = masking.independent_views(len(audio), grid[0] * grid[1], masks.ratio, 1, generators)
    else:
        (audio_view,) = masking.structured_views(len(audio), grid, masks.ratio, 1, generators, axes=masks.audio)
    (video_view,) = masking.independent_views(len(audio), config.video_tokens, masks.ratio, 1, generators)
    return MaskedPair(audio=audio_view.to(audio.device), video=video_view.to(audio.device))


def _fill(
    predicted: Tensor, target: Tensor, mask: Tensor, unpatchify: Callable[[Tensor], Tensor], *, norm_pix: bool
) -> Filled:
    """Compare and assemble (B, L, P) patches; ``mask`` (B, L) is 1 where they were removed."""
    visible = (1 - mask)[..., None].expand_as(target)
    mean, std = torch.zeros_like(target[..., :1]), torch.ones_like(target[..., :1])
    constant = (target * visible).sum(dim=(1, 2), keepdim=True) / visible.sum(dim=(1, 2), keepdim=True)
    if norm_pix:
        mean, std = target.mean(dim=-1, keepdim=True), (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        constant = torch.zeros_like(constant)
    wanted = (target - mean) / std
    parts = {
        "given": unpatchify(target),
        "removed": unpatchify(1 - visible) > 0,
        "filled": unpatchify(torch.where(visible > 0, target, predicted * std + mean)),
        "error": _masked_error(predicted, wanted, mask),
        "constant_error": _masked_error(constant, wanted, mask),
    }
    return Filled(**{name: part.cpu() for name, part in parts.items()})


def _masked_error(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean squared error over removed patches."""
    return ((predicted - wanted).square().mean(dim=-1) * mask).sum(dim=1) / mask.sum(dim=1)
