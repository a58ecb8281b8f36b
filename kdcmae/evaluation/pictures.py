"""RGB pictures of arrays: spectrograms, images, heat over images, panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.preprocessing import Preprocessing, resize_crop_matrix

__all__ = [
    "OBJECT_COLOUR",
    "REGION_COLOUR",
    "Picture",
    "Shown",
    "brightness",
    "clip_pictures",
    "frame_thumbnail",
    "heat_colours",
    "held_frames",
    "image_picture",
    "outlined",
    "overlaid",
    "shrunk",
    "side_by_side",
    "spectrogram_picture",
    "without_removed",
]

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

# Black, violet, red, orange, cream: brightness rises evenly, so that it also works in greyscale.
_ANCHORS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)
_GREY = 128
OBJECT_COLOUR, REGION_COLOUR = (64, 255, 64), (255, 255, 255)
"""Colours of outlines: ground truth and prediction."""

_GAP = 4
_THUMBNAIL = 128  # pixels a side
_COLUMNS, _ROWS = 320, 64  # pixels of a spectrogram beside it
_PADDED_WITHIN = 1e-4  # of a normalised spectrogram; a single bin of sound differs more from padding


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture of a clip.

    Args:
        picture: (H, W, 3).
        seconds: of sound in the picture; None for a picture without sound.
    """

    picture: Picture
    seconds: float | None = None


def heat_colours(values: NDArray[np.floating[Any]]) -> Picture:
    """Colour (H, W) values in [0, 1], dark to bright; values outside are clipped."""
    positions = np.linspace(0.0, 1.0, len(_ANCHORS))
    channels = [np.interp(values, positions, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def spectrogram_picture(audio: NDArray[np.floating[Any]], lowest: float, highest: float) -> Picture:
    """Draw a spectrogram, time to the right and frequency upwards.

    Args:
        audio: (T, F).
        lowest, highest: values drawn darkest and brightest.
    """
    span = max(highest - lowest, 1e-12)
    return heat_colours((audio.T[::-1] - lowest) / span)


def held_frames(audio: NDArray[np.floating[Any]], preprocessing: Preprocessing) -> int:
    """How many of (T, F) normalised frames are not padding.

    Padding is a log-mel value of 0 in every bin. That is as loud as full scale, so no frame of sound looks like it.
    """
    padding = -preprocessing.fbank_mean / preprocessing.fbank_std
    held = np.flatnonzero((np.abs(audio - padding) > _PADDED_WITHIN).any(axis=1))
    return int(held[-1]) + 1 if len(held) else len(audio)


def brightness(audio: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Values of (T, F) to draw darkest and brightest: nearly the whole range, without digital silence."""
    lowest, highest = np.quantile(audio, (0.02, 0.999))
    return float(lowest), float(highest)


def shrunk(values: NDArray[Any], rows: int, columns: int) -> NDArray[np.float64]:
    """(H, W, ...) averaged down to at most ``rows`` by ``columns``, without aliasing."""
    height, width = values.shape[:2]
    down, across = (
        resize_crop_matrix(size, most, most) if size > most else np.eye(size)
        for size, most in ((height, rows), (width, columns))
    )
    return np.einsum("ah,hw...,bw->ab...", down, values.astype(np.float64), across, optimize=True)


def frame_thumbnail(image: NDArray[np.floating[Any]], preprocessing: Preprocessing) -> Picture:
    """A small picture of a (3, S, S) normalised image."""
    small = shrunk(image_picture(image, preprocessing), _THUMBNAIL, _THUMBNAIL)
    return small.round().clip(0, 255).astype(np.uint8)


def clip_pictures(sample: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Shown]:
    """Thumbnails of a clip's inputs: ``frame``, and ``sound`` without its padding.

    Args:
        sample: ``image`` (3, S, S) or (F, 3, S, S), whose middle frame is shown; ``audio`` (T, 128).
        preprocessing: the model's.
    """
    pictures = {}
    if "image" in sample:
        image = np.asarray(sample["image"])
        frame = image if image.ndim == 3 else image[len(image) // 2]
        pictures["frame"] = Shown(frame_thumbnail(frame, preprocessing))
    if "audio" in sample:
        audio = np.asarray(sample["audio"])
        audio = audio[: held_frames(audio, preprocessing)]
        drawn = spectrogram_picture(shrunk(audio, _COLUMNS, _ROWS), *brightness(audio))
        pictures["sound"] = Shown(drawn, len(audio) * preprocessing.frame_shift / preprocessing.sample_rate_hz)
    return pictures


def image_picture(image: NDArray[np.floating[Any]], preprocessing: Preprocessing) -> Picture:
    """Undo the normalisation of a (3, H, W) image; values outside the range of colours are clipped."""
    mean, std = (np.array(values)[:, None, None] for values in (preprocessing.image_mean, preprocessing.image_std))
    return (255 * (image * std + mean).clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)


def without_removed(picture: Picture, removed: NDArray[np.bool_]) -> Picture:
    """Grey out the removed pixels, (H, W) bool."""
    return np.where(removed[..., None], np.uint8(_GREY), picture)


def overlaid(picture: Picture, heat: NDArray[np.floating[Any]]) -> Picture:
    """Blend a picture, made grey, with (H, W) heat in [0, 1]."""
    grey = picture.mean(axis=-1, keepdims=True)
    return (0.5 * grey + 0.5 * heat_colours(heat)).round().astype(np.uint8)


def outlined(picture: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Picture:
    """Draw the inner edge of a (H, W) bool mask."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((mask & ~inside)[..., None], np.array(colour, dtype=np.uint8), picture)


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size with white gaps between them: in a row, or stacked if they are wide."""
    height, width = pictures[0].shape[:2]
    axis = 0 if width > 2 * height else 1
    gap = np.full((_GAP, width, 3) if axis == 0 else (height, _GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=axis)
