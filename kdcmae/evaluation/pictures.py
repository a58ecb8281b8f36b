"""Arrays -> RGB pictures: spectrograms, images, heat over images, panels beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.preprocessing import Preprocessing

__all__ = [
    "heat_colours",
    "image_picture",
    "outlined",
    "overlaid",
    "side_by_side",
    "spectrogram_picture",
    "without_removed",
]

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

# Black, violet, red, orange, cream: brightness rises evenly, so that it also reads in grey.
_ANCHORS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)
_GREY = 128
_OUTLINE = (64, 255, 64)
_GAP = 4


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


def outlined(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """Draw the inner edge of a (H, W) bool mask."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.where((mask & ~inside)[..., None], np.array(_OUTLINE, dtype=np.uint8), picture)


def side_by_side(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size with white gaps between them: in a row, or one above the other where they are wide."""
    height, width = pictures[0].shape[:2]
    axis = 0 if width > 2 * height else 1
    gap = np.full((_GAP, width, 3) if axis == 0 else (height, _GAP, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=axis)
