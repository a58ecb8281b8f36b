"""Pictures: objects of a shape, a texture and two colours over a background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.avsynth.classes import LOOKS, Look
from kdcmae.data.avsynth.sound import Performance, drive, envelope
from kdcmae.runtime.arrays import Float64

__all__ = ["Ground", "SceneObject", "coverage", "paint", "painted_ground"]

Colour = tuple[float, float, float]

_PULSE = 0.2  # a note makes an object this much larger
_REACH = 0.25  # how far bouncing and swaying go, in radii
_EXTENT = 1.25  # no shape reaches further, in radii
_TURN = 0.6  # how far spinning goes, in radians


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An object in a scene, sounding or silent; both move with a performance.

    Args:
        look: a key of :data:`~kdcmae.data.avsynth.classes.LOOKS`.
        x, y: of its resting place, in pixels from the left and from the top.
        radius: in pixels.
        angle: in radians.
        colours: RGB from 0 to 1, of the body and of the texture.
        performance: the sound that moves it.
    """

    look: str
    x: float
    y: float
    radius: float
    angle: float
    colours: tuple[Colour, Colour]
    performance: Performance

    @property
    def kind(self) -> Look:
        return LOOKS[self.look]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A background: one colour fades into another along ``angle``, with waves of ``wave_pixels`` across."""

    colours: tuple[Colour, Colour]
    angle: float
    wave_pixels: float
    wave_height: float


@lru_cache(maxsize=1)  # a clip's frames share it
def painted_ground(ground: Ground, size: int) -> Float64:
    """(size, size, 3) RGB from 0 to 1, read-only."""
    rows, columns = np.mgrid[0:size, 0:size]
    along = rows * np.sin(ground.angle) + columns * np.cos(ground.angle)
    across = rows * np.cos(ground.angle) - columns * np.sin(ground.angle)
    share = (along - along.min()) / (along.max() - along.min())
    share = share + ground.wave_height * np.sin(2 * np.pi * across / ground.wave_pixels)
    first, second = (np.array(colour) for colour in ground.colours)
    picture = first + np.clip(share, 0, 1)[..., None] * (second - first)
    picture.flags.writeable = False
    return picture


def paint(canvas: Float64, thing: SceneObject, time_s: float) -> None:
    """Paint an object, as it is at a moment, over a (size, size, 3) canvas."""
    placed = _placed(thing, time_s, len(canvas))
    body, marks = (np.array(colour) for colour in thing.colours)
    colours = np.where(_marked(thing.kind.texture, placed.x, placed.y)[..., None], marks, body)
    part = canvas[placed.window]
    part += placed.alpha[..., None] * (colours - part)


def coverage(thing: SceneObject, time_s: float, size: int) -> NDArray[np.bool_]:
    """(size, size): the pixels that are more than half covered by an object at a moment."""
    placed = _placed(thing, time_s, size)
    covered = np.zeros((size, size), dtype=np.bool_)
    covered[placed.window] = placed.alpha > 0.5
    return covered


@dataclass(frozen=True, eq=False)
class _Placed:
    """An object on a canvas.

    Args:
        window: the part of the canvas around it.
        alpha: how much of each pixel there it covers.
        x, y: the pixels' places in its own frame, where its radius is 1.
    """

    window: tuple[slice, slice]
    alpha: Float64
    x: Float64
    y: Float64


def _placed(thing: SceneObject, time_s: float, size: int) -> _Placed:
    moment = np.array([time_s])
    swing = float(drive(thing.performance, moment)[0])
    radius = thing.radius * (1 + _PULSE * float(envelope(thing.performance, moment)[0]))
    centre_x, centre_y, angle = thing.x, thing.y, thing.angle
    if thing.kind.motion == "bounce":
        centre_y -= _REACH * thing.radius * swing
    elif thing.kind.motion == "sway":
        centre_x += _REACH * thing.radius * swing
    else:
        angle += _TURN * swing
    reach = _EXTENT * radius
    tall, wide = (
        slice(max(0, int(centre - reach)), min(size, int(centre + reach) + 2)) for centre in (centre_y, centre_x)
    )
    rows, columns = np.mgrid[tall, wide]
    right, down = (columns + 0.5 - centre_x) / radius, (rows + 0.5 - centre_y) / radius
    x, y = np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right
    alpha = np.clip(0.5 - _distance(thing.kind.shape, x, y) * radius, 0, 1)
    return _Placed((tall, wide), alpha, x, y)


def _distance(shape: str, x: Float64, y: Float64) -> Float64:
    """Roughly how far a place is outside (positive) or inside of the outline, in radii."""
    if shape == "disc":
        return np.hypot(x, y) - 1
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "triangle":
        return np.maximum(y - 0.6, np.abs(x) * 0.87 - y * 0.5 - 0.5)
    if shape == "star":
        return np.hypot(x, y) - (0.75 + 0.3 * np.cos(5 * np.arctan2(x, -y)))
    across, along = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
    return np.maximum(across - 0.35, along - 1)  # cross


def _marked(texture: str, x: Float64, y: Float64) -> NDArray[np.bool_]:
    """Where the second colour is."""
    if texture == "stripes":
        return np.sin(2 * np.pi * x / 0.55) > 0
    if texture == "dots":
        return np.cos(2 * np.pi * x / 0.6) + np.cos(2 * np.pi * y / 0.6) > 0.7
    if texture == "checks":
        return np.sin(2 * np.pi * x / 0.8) * np.sin(2 * np.pi * y / 0.8) > 0
    if texture == "rings":
        return np.cos(2 * np.pi * np.hypot(x, y) / 0.67) > 0
    return np.zeros(x.shape, dtype=np.bool_)  # plain
