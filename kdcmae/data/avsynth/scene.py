"""Scenes: a sounding object among silent ones that move as if they sounded, and how a scene becomes a clip."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.avsynth.classes import CLASSES, LOOKS, SOUNDS, SynthClass, looks_of
from kdcmae.data.avsynth.picture import Colour, Ground, SceneObject, coverage, paint, painted_ground
from kdcmae.data.avsynth.sound import Performance, tone
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP, MIDDLE_FRAME
from kdcmae.media.resampling import SAMPLE_RATE_HZ

__all__ = [
    "AVSYNTH_VERSION",
    "CLIP_S",
    "FPS",
    "FRAMES",
    "FRAME_NUMBERS",
    "FRAME_SIZE",
    "SPLITS",
    "Scene",
    "clip_id",
    "draw_scene",
    "frame",
    "mask",
    "sound",
]

AVSYNTH_VERSION = 3  # of the scenes that a seed gives; any change of them gets another number
SPLITS = ("train", "valid", "test")

CLIP_S = 2.0
FPS = 10
FRAME_SIZE = 112  # pixels

FRAMES = round(CLIP_S * FPS)
FRAME_NUMBERS = tuple(number * FRAMES // FRAMES_PER_CLIP for number in range(FRAMES_PER_CLIP))
"""Of the ten frames that a reader of the clip's file gets."""

_RADII = (13.0, 21.0)
_HIGHEST_PITCH_HZ, _PITCH_OCTAVES = 1280.0, 3.0  # of the smallest object, and down to that of the largest
_PITCH_JITTER_OCTAVES = 0.15
_HUES, _HUE_JITTER = (0.0, 0.7), 0.02  # red for the lowest pitch, over green to blue for the highest, as with light
_GAINS_DB = (-25.0, -1.0)  # of the darkest object, and of the brightest
_GAP_RADII = 1.35  # room around a resting place: the object pulses and moves
_DISTRACTORS = (0.5, 0.5)  # how often there are none, one


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Complete description of a clip before it is rendered.

    Args:
        kind: its class.
        sounding: the sounding object.
        silent: the silent objects.
        ground: the background.
        gain: of the sound, from 0 to 1.
        noise_db: of the noise below the sound.
        grain: of the pictures: standard deviation of their noise, in grey levels.
        noise_seed: of all noise.
    """

    kind: SynthClass
    sounding: SceneObject
    silent: tuple[SceneObject, ...]
    ground: Ground
    gain: float
    noise_db: float
    grain: float
    noise_seed: tuple[int, ...]


def clip_id(split: str, index: int) -> str:
    """The id of a clip in manifests."""
    return f"{split}-{index:06}"


def draw_scene(split: str, index: int, *, seed: int) -> Scene:
    """The scene of a clip, which depends only on its split, number and seed.

    Args:
        split: ``train``, ``valid`` or ``test``; each has a stream of its own.
        index: of the clip; classes take turns.
    """
    stream = (AVSYNTH_VERSION, seed, SPLITS.index(split), index)
    rng = np.random.default_rng(stream)
    kind = CLASSES[index % len(CLASSES)]
    # A silent object never has a look that would make a class with this sound: hearing tells which object it is.
    others = sorted(LOOKS.keys() - looks_of(kind.sound))
    looks = [kind.look, *rng.choice(others, size=rng.choice(len(_DISTRACTORS), p=_DISTRACTORS), replace=False)]
    radii = rng.uniform(*_RADII, size=len(looks))
    gains_db = rng.uniform(*_GAINS_DB, size=len(looks))
    places = _places(radii, rng)
    played = [kind.sound, *rng.choice(list(SOUNDS), size=len(looks) - 1)]
    performances = [_performance(str(name), radius, rng) for name, radius in zip(played, radii.tolist(), strict=True)]
    objects = [
        SceneObject(
            look=str(look),
            x=x,
            y=y,
            radius=radius,
            angle=rng.uniform(-0.4, 0.4),
            colours=_object_colours(performance.pitch_hz, gain_db, rng),
            performance=performance,
        )
        for look, performance, gain_db, radius, (x, y) in zip(
            looks, performances, gains_db.tolist(), radii.tolist(), places, strict=True
        )
    ]
    return Scene(
        kind=kind,
        sounding=objects[0],
        silent=tuple(objects[1:]),
        ground=_ground(rng),
        gain=10 ** (gains_db[0] / 20),
        noise_db=rng.uniform(-35, -20),
        grain=rng.uniform(0, 6),
        noise_seed=(*stream, 1),
    )


def sound(scene: Scene) -> NDArray[np.float32]:
    """The sound of a clip: (S,) float32 in [-1, 1], 16 kHz."""
    rng = np.random.default_rng(scene.noise_seed)
    time_s = np.arange(round(CLIP_S * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    clean = tone(scene.sounding.performance, time_s, rng)
    noise = 10 ** (scene.noise_db / 20) * clean.std() * rng.standard_normal(len(clean))
    return np.clip(scene.gain * (clean + noise), -1, 1).astype(np.float32)


def frame(scene: Scene, number: int) -> NDArray[np.uint8]:
    """One of a clip's frames: (112, 112, 3) uint8 RGB."""
    canvas = painted_ground(scene.ground, FRAME_SIZE).copy()
    for thing in (*scene.silent, scene.sounding):
        paint(canvas, thing, number / FPS)
    grain = np.random.default_rng((*scene.noise_seed, number)).normal(0, scene.grain, canvas.shape)
    return np.clip(np.round(255 * canvas + grain), 0, 255).astype(np.uint8)


def mask(scene: Scene) -> NDArray[np.bool_]:
    """Where the sounding object is in the middle frame, which evaluation looks at: (112, 112)."""
    return coverage(scene.sounding, FRAME_NUMBERS[MIDDLE_FRAME] / FPS, FRAME_SIZE)


def _performance(name: str, radius: float, rng: np.random.Generator) -> Performance:
    """The performance of an object of this size: a larger object has a lower pitch."""
    share = (radius - _RADII[0]) / (_RADII[1] - _RADII[0])
    octaves = -_PITCH_OCTAVES * share + rng.normal(0, _PITCH_JITTER_OCTAVES)
    return Performance(
        sound=name, pitch_hz=_HIGHEST_PITCH_HZ * 2**octaves, onset_s=rng.uniform(0, 0.4), tempo=rng.uniform(0.85, 1.15)
    )


def _places(radii: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Resting places, anywhere in the frame, where no two objects touch."""
    room = _GAP_RADII * radii
    while True:
        places = rng.uniform(room, FRAME_SIZE - room, size=(2, len(radii))).T
        apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1)) - (room[:, None] + room)
        if (apart[~np.eye(len(radii), dtype=np.bool_)] > 0).all():
            return [(float(x), float(y)) for x, y in places]


def _object_colours(pitch_hz: float, gain_db: float, rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Body and texture colours: bluer for a higher pitch, brighter for a louder sound; the texture is darker."""
    octaves = np.log2(_HIGHEST_PITCH_HZ / pitch_hz)
    hue = np.interp(octaves, (0, _PITCH_OCTAVES), _HUES[::-1]) + rng.uniform(-_HUE_JITTER, _HUE_JITTER)
    share = (gain_db - _GAINS_DB[0]) / (_GAINS_DB[1] - _GAINS_DB[0])
    value = 0.35 + 0.6 * share + rng.uniform(-0.03, 0.03)
    body = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 0.95), value)
    marks = colorsys.hsv_to_rgb((hue + rng.uniform(0.2, 0.8)) % 1, rng.uniform(0.3, 0.7), 0.45 * value)
    return body, marks


def _ground(rng: np.random.Generator) -> Ground:
    """Of any hue, but paler than any object."""
    first, second = (
        colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.15), rng.uniform(0.35, 0.5)) for _ in range(2)
    )
    return Ground(
        colours=(first, second),
        angle=rng.uniform(0, 2 * np.pi),
        wave_pixels=rng.uniform(12, 60),
        wave_height=rng.uniform(0, 0.3),
    )
