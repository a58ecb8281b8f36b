from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest

from kdcmae.data.avsynth.classes import CLASSES
from kdcmae.data.avsynth.picture import coverage
from kdcmae.data.avsynth.scene import FRAME_NUMBERS, FRAME_SIZE, FRAMES, draw_scene, frame, mask, sound


def test_a_scene_depends_on_seed_split_and_number_alone() -> None:
    assert draw_scene("train", 5, seed=3) == draw_scene("train", 5, seed=3)
    others = [draw_scene("train", 5, seed=4), draw_scene("valid", 5, seed=3), draw_scene("train", 17, seed=3)]
    for other in others:
        assert other.kind == CLASSES[5]
        assert other != draw_scene("train", 5, seed=3)


def test_equal_seeds_give_equal_arrays() -> None:
    for index in range(12):
        first, second = (draw_scene("test", index, seed=9) for _ in range(2))
        np.testing.assert_array_equal(sound(first), sound(second))
        np.testing.assert_array_equal(frame(first, 7), frame(second, 7))
        np.testing.assert_array_equal(mask(first), mask(second))


def test_what_a_seed_gives_has_not_changed() -> None:
    """A change here needs another AVSYNTH_VERSION; compared coarsely, since sines differ between machines."""
    scene = draw_scene("train", 0, seed=0)
    assert len(scene.silent) == 0
    assert scene.sounding.x == pytest.approx(61.90, abs=0.01)
    assert scene.sounding.performance.pitch_hz == pytest.approx(764.9, abs=0.1)


@pytest.mark.parametrize("index", range(12))
def test_sound_and_frames_have_their_shapes(index: int) -> None:
    scene = draw_scene("train", index, seed=0)
    waveform = sound(scene)
    assert waveform.shape == (32000,)
    assert waveform.dtype == np.float32
    assert 0.05 < np.abs(waveform).max() <= 1
    picture = frame(scene, 0)
    assert picture.shape == (FRAME_SIZE, FRAME_SIZE, 3)
    assert picture.dtype == np.uint8
    assert tuple(range(0, FRAMES, 2)) == FRAME_NUMBERS


def test_the_mask_is_where_the_sounding_object_is() -> None:
    for index in range(24):
        scene = draw_scene("train", index, seed=2)
        where = mask(scene)
        assert 100 < where.sum() < 2500
        rows, columns = np.nonzero(where)
        reach = 0.6 * scene.sounding.radius
        assert rows.mean() == pytest.approx(scene.sounding.y, abs=reach)
        assert columns.mean() == pytest.approx(scene.sounding.x, abs=reach)
        quiet = dataclasses.replace(scene, grain=0.0)
        gone = dataclasses.replace(quiet, sounding=scene.sounding, silent=())
        alone = frame(gone, FRAME_NUMBERS[5]).astype(int)
        np.testing.assert_array_equal(frame(quiet, FRAME_NUMBERS[5])[where], alone[where])  # nothing lies over it


def test_objects_never_touch() -> None:
    for index in range(60):
        scene = draw_scene("train", index, seed=5)
        for number in (0, 7, 13):
            covered = sum(
                coverage(thing, number / 10, FRAME_SIZE).astype(int) for thing in (scene.sounding, *scene.silent)
            )
            assert np.max(covered) <= 1


def test_places_sizes_and_distractors_vary() -> None:
    scenes = [draw_scene("train", index, seed=0) for index in range(400)]
    x = np.array([scene.sounding.x for scene in scenes])
    assert x.min() < 25
    assert x.max() > 87
    assert abs(x.mean() - 56) < 3
    counts = np.bincount([len(scene.silent) for scene in scenes]) / 400
    np.testing.assert_allclose(counts, [0.5, 0.5], atol=0.07)


def test_the_larger_the_lower() -> None:
    scenes = [draw_scene("train", index, seed=0) for index in range(300)]
    radii = [scene.sounding.radius for scene in scenes]
    octaves = [np.log2(scene.sounding.performance.pitch_hz) for scene in scenes]
    assert np.corrcoef(radii, octaves)[0, 1] < -0.9


def test_the_sounding_object_moves_with_its_sound_and_others_do_not() -> None:
    scene = next(s for s in (draw_scene("train", 5 + 12 * i, seed=0) for i in range(20)) if s.silent)
    assert scene.kind.sound == "beating"
    times = np.arange(FRAMES) / 10
    loudness = [np.abs(sound(scene)[round(16000 * t) :][:160]).max() for t in times]
    sizes = [coverage(scene.sounding, t, FRAME_SIZE).sum() for t in times]
    other = [coverage(scene.silent[0], t, FRAME_SIZE).sum() for t in times]
    assert np.corrcoef(loudness, sizes)[0, 1] > 0.9
    assert abs(np.corrcoef(loudness, other)[0, 1]) < 0.8


def test_the_higher_the_bluer_whether_heard_or_not() -> None:
    scenes = [draw_scene("train", index, seed=0) for index in range(300)]
    for things in ([scene.sounding for scene in scenes], [thing for scene in scenes for thing in scene.silent]):
        hues = [colorsys.rgb_to_hsv(*thing.colours[0])[0] for thing in things]
        octaves = [np.log2(thing.performance.pitch_hz) for thing in things]
        # A red that is lower still is a violet: hues are a circle.
        turned = [hue - 1 if hue > 0.85 else hue for hue in hues]
        assert np.corrcoef(turned, octaves)[0, 1] > 0.97


def test_textures_and_backgrounds_have_any_hue() -> None:
    scenes = [draw_scene("train", index, seed=0) for index in range(300)]
    for colours in ([s.sounding.colours[1] for s in scenes], [s.ground.colours[0] for s in scenes]):
        hues = np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in colours])
        octaves = np.array([np.log2(s.sounding.performance.pitch_hz) for s in scenes])
        assert np.histogram(hues, 6, (0, 1))[0].min() > 20
        assert abs(np.corrcoef(hues, octaves)[0, 1]) < 0.35


def test_the_louder_the_brighter() -> None:
    scenes = [draw_scene("train", index, seed=0) for index in range(300)]
    values = [max(scene.sounding.colours[0]) for scene in scenes]
    gains_db = [20 * np.log10(scene.gain) for scene in scenes]
    assert np.corrcoef(values, gains_db)[0, 1] > 0.9
