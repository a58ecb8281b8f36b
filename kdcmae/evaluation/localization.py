"""Visual sound source localisation: where in the frame is what is heard (paper section 4).

Clips come as batches, mappings with ``audio`` (B, T, 128), ``image`` (B, 3, S, S), ``index`` (B,), the clips'
numbers, and optionally ``mask`` (B, S, S) bool, true where the sounding object is: tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdcmae.errors import DataError
from kdcmae.evaluation.pictures import Picture, image_picture, outlined, overlaid, side_by_side
from kdcmae.pretraining import KDCMAE
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["CentreBox", "Heat", "Localization", "draw_heat", "heatmap", "localize", "summarize"]

IOU_THRESHOLD = 0.5
_THRESHOLDS = np.linspace(0.0, 1.0, 21)
_BOX_SIDES = np.linspace(0.05, 1.0, 20)  # as shares of the frame's side


@dataclass(frozen=True, eq=False)
class Heat:
    """Where a batch's sounds are seen, on the CPU.

    Args:
        index: (B,) the clips' numbers.
        image: (B, 3, S, S) normalised.
        heat: (B, S, S) float32, scaled to [0, 1] per clip.
        mask: (B, S, S) bool, the truth, where it is known.
    """

    index: Tensor
    image: Tensor
    heat: Tensor
    mask: Tensor | None


@dataclass(frozen=True, kw_only=True)
class CentreBox:
    """What a square in the middle of every frame scores, of the size that scores best on these very clips.

    Args:
        side: of the box, as a share of the frame's.
        ciou, auc, pointing: as in :class:`Localization`.
    """

    side: float
    ciou: float
    auc: float
    pointing: float


@dataclass(frozen=True, kw_only=True)
class Localization:
    """What came out.

    Args:
        clips: how many were scored: those whose object is in the frame.
        ciou: share of clips whose region overlaps the object's mask with an IoU of at least 0.5.
        auc: area under that share over IoU thresholds from 0 to 1 in steps of 0.05.
        pointing: share of clips whose hottest pixel lies on the object.
        centre_box: the baseline.
    """

    clips: int
    ciou: float
    auc: float
    pointing: float
    centre_box: CentreBox


def heatmap(model: KDCMAE, audio: Tensor, image: Tensor) -> Tensor:
    """How much better each place of the frame goes with the sound than with the rest of the picture.

    Every patch is encoded by itself, as a view that keeps nothing else. Published models compare the sound with the
    tokens of the whole picture; but attention has mixed those, and a model trained from nothing tells what the object
    is in the many tokens of the background: on AVSynth its heat peaked everywhere but on the object.

    Args:
        model: in evaluation mode.
        audio: (B, T, 128). image: (B, 3, S, S).

    Returns:
        (B, rows, columns): the cosine of each patch after ``norm_v`` to the mean audio token after ``norm_a``, less its
        mean cosine to all patches of the picture.
    """
    length, batch = model.config.video_tokens, len(image)
    alone = torch.arange(length, device=image.device)[:, None, None].expand(length, batch, 1)
    patches = F.normalize(model.unified(model.video_tokens(image, alone), "video").float().squeeze(1), dim=-1)
    patches = patches.unflatten(0, (length, batch)).transpose(0, 1)
    sound = F.normalize(model.unified(model.audio_tokens(audio), "audio").float().mean(dim=1), dim=-1)
    fit = (patches @ (sound - patches.mean(dim=1))[:, :, None]).squeeze(2)
    return fit.unflatten(1, model.config.image_grid)


@torch.inference_mode()
def localize(model: KDCMAE, batches: Iterable[Mapping[str, Tensor]]) -> Iterator[Heat]:
    """Heat over the frame of every clip: the heatmap upsampled to the frame and scaled to [0, 1].

    Args:
        model: in evaluation mode.
        batches: of clips.
    """
    device = model.mask_token.device
    for batch in batches:
        fit = heatmap(model, batch["audio"].to(device), batch["image"].to(device))
        size = batch["image"].shape[-2:]
        heat = F.interpolate(fit[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].cpu()
        lowest, highest = heat.amin(dim=(1, 2), keepdim=True), heat.amax(dim=(1, 2), keepdim=True)
        scaled = (heat - lowest) / (highest - lowest).clamp(min=1e-12)
        yield Heat(batch["index"].cpu(), batch["image"].cpu(), scaled, batch.get("mask"))


def summarize(heats: Iterable[Heat]) -> Localization:
    """Compare heat with the truth.

    Args:
        heats: from :func:`localize`, with masks.

    Raises:
        DataError: no clip with a mask, no object in any frame, or heat that is not finite.

    Source: the region is where the heat is at least half its range; success at an IoU of 0.5 and the area over
    thresholds are those of Senocak et al., Learning to Localize Sound Source in Visual Scenes (CVPR 2018), with a
    mask in the place of annotators' boxes.
    """
    ious, box_ious, hits, centre_hits = [], [], [], []
    for one in heats:
        if one.mask is None:
            raise DataError("the clips have no masks of the sounding object to compare with")
        if not one.heat.isfinite().all():
            raise DataError("the heat is not finite; the checkpoint or a clip is damaged")
        seen = one.mask.flatten(1).any(dim=1)
        if not seen.any():
            continue
        mask, heat = one.mask[seen].numpy(), one.heat[seen].numpy()
        ious.append(_iou(heat >= 0.5, mask))
        boxes = _centre_boxes(mask.shape[-1])
        box_ious.append(np.stack([_iou(box, mask) for box in boxes], axis=1))
        peaks = heat.reshape(len(heat), -1).argmax(axis=1)
        hits.append(np.take_along_axis(mask.reshape(len(mask), -1), peaks[:, None], axis=1)[:, 0])
        centre_hits.append(mask[:, mask.shape[1] // 2, mask.shape[2] // 2])
    if not ious:
        raise DataError("no clip shows a sounding object to localise")
    iou, box_iou = np.concatenate(ious), np.concatenate(box_ious)
    best = int(np.argmax([_auc(column) for column in box_iou.T]))
    return Localization(
        clips=len(iou),
        ciou=_success(iou, IOU_THRESHOLD),
        auc=_auc(iou),
        pointing=float(np.concatenate(hits).mean()),
        centre_box=CentreBox(
            side=float(_BOX_SIDES[best]),
            ciou=_success(box_iou[:, best], IOU_THRESHOLD),
            auc=_auc(box_iou[:, best]),
            pointing=float(np.concatenate(centre_hits).mean()),
        ),
    )


def draw_heat(one: Heat, row: int, preprocessing: Preprocessing) -> dict[str, Picture]:
    """Draw one clip: the frame, and the heat over it; the object is outlined where the truth is known.

    Args:
        one: the batch.
        row: of the clip in it.
        preprocessing: of the images.

    Returns:
        The picture ``heat``, two panels.
    """
    frame = image_picture(one.image[row].numpy(), preprocessing)
    panels = [frame, overlaid(frame, one.heat[row].numpy())]
    if one.mask is not None:
        panels = [outlined(panel, one.mask[row].numpy()) for panel in panels]
    return {"heat": side_by_side(panels)}


def _iou(region: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B,) overlap of (B, S, S) or (S, S) regions with (B, S, S) masks, each with a pixel at least."""
    axes = (1, 2)
    return (region & mask).sum(axis=axes) / (region | mask).sum(axis=axes)


def _centre_boxes(size: int) -> list[NDArray[np.bool_]]:
    """Squares of all baseline sides in the middle of a frame, (S, S) bool each."""
    distance = np.abs(np.arange(size) - (size - 1) / 2)
    within = [distance <= max(side * size / 2, 1) for side in _BOX_SIDES]
    return [inside[:, None] & inside for inside in within]


def _success(iou: NDArray[np.float64], threshold: float) -> float:
    return float((iou >= threshold).mean())


def _auc(iou: NDArray[np.float64]) -> float:
    return float(np.trapezoid([_success(iou, threshold) for threshold in _THRESHOLDS], _THRESHOLDS))
