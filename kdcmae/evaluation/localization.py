"""Visual sound source localisation: where in the frame the sounding object is (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128), ``image`` (B, 3, S, S), ``index`` (B,), the clips'
numbers, and optionally ``mask`` (B, S, S) bool, true where the sounding object is: tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdcmae.errors import DataError
from kdcmae.evaluation.pictures import OBJECT_COLOUR, REGION_COLOUR, Shown, image_picture, outlined, overlaid
from kdcmae.pretraining import KDCMAE
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = [
    "CentreBox",
    "Heat",
    "Localization",
    "Scores",
    "clip_scores",
    "draw_heat",
    "heatmap",
    "localize",
    "patch_features",
    "sound_features",
    "summarize",
]

IOU_THRESHOLD = 0.5
_REGION = 0.5  # threshold of the heat, as a share of its range
_THRESHOLDS = np.linspace(0.0, 1.0, 21)
_BOX_SIDES = np.linspace(0.05, 1.0, 20)  # as shares of the frame's side


@dataclass(frozen=True, eq=False)
class Heat:
    """Heat over the frames of a batch, on the CPU.

    Args:
        index: (B,) the clips' numbers.
        image: (B, 3, S, S) normalised.
        heat: (B, S, S) float32, scaled to [0, 1] per clip.
        other_heat: the same for the sound of another clip.
        mask: (B, S, S) bool, the ground truth, if known.
    """

    index: Tensor
    image: Tensor
    heat: Tensor
    other_heat: Tensor
    mask: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well regions match the sounding objects.

    Args:
        ciou: share of clips whose region overlaps the object's mask with an IoU of at least 0.5.
        auc: area under that share over IoU thresholds from 0 to 1 in steps of 0.05.
        pointing: share of clips whose hottest pixel lies on the object.
    """

    ciou: float
    auc: float
    pointing: float


@dataclass(frozen=True, kw_only=True)
class CentreBox(Scores):
    """Scores of a square in the middle of every frame, of the size that scores best on these clips.

    Args:
        side: of the box, as a share of the frame's.
    """

    side: float


@dataclass(frozen=True, kw_only=True)
class Localization(Scores):
    """Result of a localisation.

    Args:
        clips: number of scored clips: those whose object is in the frame.
        other_sound: scores of the same pictures with the sounds of other clips. This part of the scores does not depend
            on the clip's own sound: the object is salient, or two clips sound alike.
        centre_box: a baseline that uses neither sound nor picture.
    """

    clips: int
    other_sound: Scores
    centre_box: CentreBox


def patch_features(model: KDCMAE, image: Tensor) -> Tensor:
    """Features of every patch of a picture, each encoded as a view of that single patch.

    Published models take the tokens of the whole picture instead. But attention mixes them: it spreads
    information about the object over the many tokens of the background. With those tokens, the heat of a model trained
    from scratch on AVSynth peaked everywhere except on the object.

    Args:
        model: in evaluation mode.
        image: (B, 3, S, S).

    Returns:
        (B, L, D) float32 of length 1, after ``norm_v``; L patches, row by row.
    """
    length, batch = model.config.video_tokens, len(image)
    alone = torch.arange(length, device=image.device)[:, None, None].expand(length, batch, 1)
    patches = model.unified(model.video_tokens(image, alone), "video").float().squeeze(1)
    return F.normalize(patches, dim=-1).unflatten(0, (length, batch)).transpose(0, 1)


def sound_features(model: KDCMAE, audio: Tensor) -> Tensor:
    """(B, T, 128) -> (B, D) float32 of length 1: the mean audio token after ``norm_a``."""
    return F.normalize(model.unified(model.audio_tokens(audio), "audio").float().mean(dim=1), dim=-1)


def heatmap(patches: Tensor, sounds: Tensor) -> Tensor:
    """How much better each patch matches the sound than the rest of the picture does.

    Args:
        patches: (B, L, D) of :func:`patch_features`.
        sounds: (B, D) of :func:`sound_features`.

    Returns:
        (B, L): the cosine of each patch to the sound, less its mean cosine to all patches of the picture.
    """
    return (patches @ (sounds - patches.mean(dim=1))[:, :, None]).squeeze(2)


@torch.inference_mode()
def localize(model: KDCMAE, batches: Iterable[Mapping[str, Tensor]]) -> Iterator[Heat]:
    """Heat over the frame of every clip: the heatmap upsampled to the frame and scaled to [0, 1].

    The other sound is that of the clip before; for the very first clip that of the last one in its batch.

    Args:
        model: in evaluation mode.
    """
    device = model.mask_token.device
    before: Tensor | None = None
    for batch in batches:
        patches = patch_features(model, batch["image"].to(device))
        sounds = sound_features(model, batch["audio"].to(device))
        others = torch.cat([sounds[-1:] if before is None else before, sounds[:-1]])
        before = sounds[-1:]
        size = batch["image"].shape[-1]
        heat, other_heat = (
            _over_frame(heatmap(patches, heard).unflatten(1, model.config.image_grid), size)
            for heard in (sounds, others)
        )
        yield Heat(batch["index"].cpu(), batch["image"].cpu(), heat, other_heat, batch.get("mask"))


def _over_frame(fit: Tensor, size: int) -> Tensor:
    """(B, rows, columns) -> (B, size, size) from 0 to 1 in every clip, on the CPU."""
    heat = F.interpolate(fit[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0].cpu()
    lowest, highest = heat.amin(dim=(1, 2), keepdim=True), heat.amax(dim=(1, 2), keepdim=True)
    return (heat - lowest) / (highest - lowest).clamp(min=1e-12)


def summarize(heats: Iterable[Heat]) -> Localization:
    """Compare heat with the ground truth.

    Args:
        heats: from :func:`localize`, with masks.

    Raises:
        DataError: a clip without a mask, no object in any frame, or heat that is not finite.

    Source: the region is where the heat is at least half its range; success at an IoU of 0.5 and the area over
    thresholds are those of Senocak et al., Learning to Localize Sound Source in Visual Scenes (CVPR 2018), with a
    mask in the place of annotators' boxes.
    """
    own, other, box_ious, centre_hits = _Tally(), _Tally(), [], []
    for located in heats:
        if located.mask is None:
            raise DataError("the clips have no masks of the sounding object to compare with")
        if not located.heat.isfinite().all():
            raise DataError("the heat is not finite; the checkpoint or a clip is damaged")
        seen = located.mask.flatten(1).any(dim=1)
        if not seen.any():
            continue
        mask = located.mask[seen].numpy()
        own.add(located.heat[seen].numpy(), mask)
        other.add(located.other_heat[seen].numpy(), mask)
        boxes = _centre_boxes(mask.shape[-1])
        box_ious.append(np.stack([_iou(box, mask) for box in boxes], axis=1))
        centre_hits.append(mask[:, mask.shape[1] // 2, mask.shape[2] // 2])
    if not box_ious:
        raise DataError("no clip shows a sounding object to localise")
    box_iou = np.concatenate(box_ious)
    best = int(np.argmax([_auc(column) for column in box_iou.T]))
    return Localization(
        clips=len(box_iou),
        **asdict(own.scores()),
        other_sound=other.scores(),
        centre_box=CentreBox(
            side=float(_BOX_SIDES[best]),
            **asdict(_scores(box_iou[:, best], np.concatenate(centre_hits))),
        ),
    )


class _Tally:
    """Accumulates the comparison of one kind of heat with the objects."""

    def __init__(self) -> None:
        self._ious: list[NDArray[np.float64]] = []
        self._hits: list[NDArray[np.bool_]] = []

    def add(self, heat: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Count (B, S, S) heat over as many masks, each with a pixel at least."""
        self._ious.append(_iou(heat >= _REGION, mask))
        peaks = heat.reshape(len(heat), -1).argmax(axis=1)
        self._hits.append(np.take_along_axis(mask.reshape(len(mask), -1), peaks[:, None], axis=1)[:, 0])

    def first(self) -> dict[str, Any]:
        """The first clip's own."""
        return {"iou": float(self._ious[0][0]), "peak_on_object": bool(self._hits[0][0])}

    def scores(self) -> Scores:
        return _scores(np.concatenate(self._ious), np.concatenate(self._hits))


def draw_heat(located: Heat, row: int, preprocessing: Preprocessing) -> dict[str, Shown]:
    """Draw one clip: the frame, and the heat over it with its region outlined; and the object, if known.

    Args:
        row: of the clip in it.

    Returns:
        ``frame`` and ``heat``.
    """
    frame = image_picture(located.image[row].numpy(), preprocessing)
    heat = located.heat[row].numpy()
    panels = {"frame": frame, "heat": outlined(overlaid(frame, heat), heat >= _REGION, REGION_COLOUR)}
    if located.mask is not None:
        object_ = located.mask[row].numpy()
        panels = {name: outlined(panel, object_, OBJECT_COLOUR) for name, panel in panels.items()}
    return {name: Shown(panel) for name, panel in panels.items()}


def clip_scores(located: Heat, row: int) -> dict[str, Any]:
    """How well one clip's heat matches its object: ``iou`` and ``peak_on_object``; None where there is no object.

    Args:
        row: of the clip in it.
    """
    if located.mask is None or not located.mask[row].any():
        return {"iou": None, "peak_on_object": None}
    tally = _Tally()
    tally.add(located.heat[row : row + 1].numpy(), located.mask[row : row + 1].numpy())
    return tally.first()


def _iou(region: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B,) overlap of (B, S, S) or (S, S) regions with (B, S, S) masks, each with a pixel at least."""
    axes = (1, 2)
    return (region & mask).sum(axis=axes) / (region | mask).sum(axis=axes)


def _centre_boxes(size: int) -> list[NDArray[np.bool_]]:
    """Squares of all baseline sides in the middle of a frame, (S, S) bool each."""
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    within = [distance <= max(side * size / 2, 1) for side in _BOX_SIDES]
    return [inside[:, None] & inside for inside in within]


def _scores(iou: NDArray[np.float64], hits: NDArray[np.bool_]) -> Scores:
    return Scores(ciou=_success(iou, IOU_THRESHOLD), auc=_auc(iou), pointing=float(hits.mean()))


def _success(iou: NDArray[np.float64], threshold: float) -> float:
    return float((iou >= threshold).mean())


def _auc(iou: NDArray[np.float64]) -> float:
    return float(np.trapezoid([_success(iou, threshold) for threshold in _THRESHOLDS], _THRESHOLDS))
