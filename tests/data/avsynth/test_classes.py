from __future__ import annotations

from collections import Counter, defaultdict

from kdcmae.data.avsynth.classes import CLASSES, LABELS, LOOKS, SOUNDS, looks_of
from kdcmae.data.avsynth.scene import draw_scene


def test_classes_are_distinct_and_use_every_sound_and_look() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == len(LABELS) == 12
    assert {kind.sound for kind in CLASSES} == SOUNDS.keys()
    assert {kind.look for kind in CLASSES} == LOOKS.keys()
    assert LABELS.names[:2] == ("rising disc", "rising square")
    assert LABELS.index("/avsynth/rising_square") == 1


def test_one_modality_is_right_for_half_of_the_clips_at_best() -> None:
    for part in ("sound", "look"):
        classes = Counter(getattr(kind, part) for kind in CLASSES)
        assert len(classes) / len(CLASSES) == 0.5  # whoever knows that part is right for one class of each
        assert sorted(classes.values()) == [1, 2, 2, 2, 2, 3]
    assert looks_of("rising") == {"disc", "square", "target"}


def test_some_classes_differ_in_one_property_alone() -> None:
    rising, falling = SOUNDS["rising"], SOUNDS["falling"]
    assert (rising.timbre, rising.notes_per_s, rising.duty) == (falling.timbre, falling.notes_per_s, falling.duty)
    assert (LOOKS["disc"].shape, LOOKS["disc"].motion) == (LOOKS["target"].shape, LOOKS["target"].motion)


def test_all_that_is_in_a_frame_tells_less_than_half_of_the_classes() -> None:
    seen: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    for index in range(2400):
        scene = draw_scene("train", index, seed=1)
        looks = frozenset([scene.sounding.look, *(thing.look for thing in scene.silent)])
        seen[looks][scene.kind.name] += 1
    assert sum(max(kinds.values()) for kinds in seen.values()) / 2400 < 0.5


def test_sound_and_frame_together_tell_the_class() -> None:
    for index in range(600):
        scene = draw_scene("valid", index, seed=1)
        looks = {scene.sounding.look, *(thing.look for thing in scene.silent)}
        assert looks & looks_of(scene.kind.sound) == {scene.kind.look}
