"""The classes of AVSynth: pairs of a sound and a look; most need both to be recognised."""

from __future__ import annotations

from dataclasses import dataclass

from kdcmae.data.manifest import LabelMap

__all__ = ["CLASSES", "LABELS", "LOOKS", "SOUNDS", "Look", "Sound", "SynthClass", "looks_of"]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A kind of sound.

    Args:
        contour: pitch over a note: ``rising``, ``falling``, ``steady`` or ``vibrato``.
        timbre: ``bright`` (all harmonics), ``hollow`` (odd ones), ``soft`` (few) or ``noise`` (a band of noise).
        notes_per_s: rhythm.
        duty: sounding share of each note.
    """

    contour: str
    timbre: str
    notes_per_s: float
    duty: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """A kind of object.

    Args:
        shape: ``disc``, ``square``, ``triangle``, ``star`` or ``cross``.
        texture: ``plain``, ``stripes``, ``dots``, ``checks`` or ``rings``.
        motion: its reaction to the sound: ``bounce``, ``sway`` or ``spin``.
    """

    shape: str
    texture: str
    motion: str


@dataclass(frozen=True)
class SynthClass:
    """The sound and the look of one class: keys of :data:`SOUNDS` and :data:`LOOKS`."""

    sound: str
    look: str

    @property
    def name(self) -> str:
        """The label, such as ``rising disc``."""
        return f"{self.sound} {self.look}"


# Rising and falling differ in nothing but the contour, beating and humming in nothing but the rhythm.
SOUNDS = {
    "rising": Sound(contour="rising", timbre="bright", notes_per_s=2.0, duty=0.8),
    "falling": Sound(contour="falling", timbre="bright", notes_per_s=2.0, duty=0.8),
    "beating": Sound(contour="steady", timbre="hollow", notes_per_s=6.0, duty=0.5),
    "humming": Sound(contour="steady", timbre="hollow", notes_per_s=1.0, duty=0.95),
    "warbling": Sound(contour="vibrato", timbre="soft", notes_per_s=1.0, duty=0.95),
    "hissing": Sound(contour="steady", timbre="noise", notes_per_s=3.0, duty=0.6),
}

# Disc and target differ in nothing but the texture.
LOOKS = {
    "disc": Look(shape="disc", texture="plain", motion="bounce"),
    "square": Look(shape="square", texture="stripes", motion="spin"),
    "triangle": Look(shape="triangle", texture="dots", motion="sway"),
    "star": Look(shape="star", texture="plain", motion="spin"),
    "cross": Look(shape="cross", texture="checks", motion="sway"),
    "target": Look(shape="disc", texture="rings", motion="bounce"),
}

# Only a hissing sound and the look of a target identify their class. Every other sound and look belongs to two or three
# classes: with six sounds (or looks) for twelve classes, a model that uses only sound (or only the picture, and knows
# which object sounds) is right for at most one clip in two.
CLASSES = (
    SynthClass("rising", "disc"),
    SynthClass("rising", "square"),
    SynthClass("rising", "target"),
    SynthClass("falling", "square"),
    SynthClass("falling", "triangle"),
    SynthClass("beating", "triangle"),
    SynthClass("beating", "star"),
    SynthClass("humming", "star"),
    SynthClass("humming", "cross"),
    SynthClass("warbling", "cross"),
    SynthClass("warbling", "disc"),
    SynthClass("hissing", "disc"),
)

LABELS = LabelMap(
    names=tuple(kind.name for kind in CLASSES),
    ids=tuple(f"/avsynth/{kind.sound}_{kind.look}" for kind in CLASSES),
)


def looks_of(sound: str) -> frozenset[str]:
    """The looks that make a class with a sound."""
    return frozenset(kind.look for kind in CLASSES if kind.sound == sound)
