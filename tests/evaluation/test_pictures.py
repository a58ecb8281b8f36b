"""Pictures of clips: without padding, small, and as bright as their sound."""

from __future__ import annotations

import numpy as np
import pytest

from kdcmae.evaluation.pictures import brightness, clip_pictures, held_frames, shrunk
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio

PREPROCESSING = Preprocessing(audio_frames=1024, image_size=224)


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_the_frames_of_a_short_clip_are_counted_whatever_its_loudness(level: float) -> None:
    sound = level * np.sin(np.arange(3 * 16000) * 0.3)
    audio = prepare_audio(sound.astype(np.float32), 16000, PREPROCESSING)[0]
    assert held_frames(audio, PREPROCESSING) == 298


def test_a_clip_without_padding_is_held_whole() -> None:
    audio = np.random.default_rng(0).normal(size=(50, 128))
    assert held_frames(audio, PREPROCESSING) == 50


def test_digital_silence_does_not_darken_the_rest() -> None:
    audio = np.random.default_rng(0).normal(size=(400, 128))
    audio[:4] = -20
    lowest, highest = brightness(audio)
    assert lowest > -4
    assert highest < 5


def test_what_is_larger_is_averaged_and_what_is_smaller_stays() -> None:
    values = np.full((300, 40, 3), 7.0)
    small = shrunk(values, 100, 100)
    assert small.shape == (100, 40, 3)
    np.testing.assert_allclose(small, 7.0)


def test_thumbnails_of_a_clip() -> None:
    rng = np.random.default_rng(0)
    audio = np.full((1024, 128), -PREPROCESSING.fbank_mean / PREPROCESSING.fbank_std, dtype=np.float32)
    audio[:300] = rng.normal(size=(300, 128))
    sample = {"audio": audio, "image": rng.normal(size=(10, 3, 224, 224)).astype(np.float32)}
    pictures = clip_pictures(sample, PREPROCESSING)
    assert pictures["frame"].picture.shape == (128, 128, 3)
    assert pictures["sound"].picture.shape == (64, 300, 3)
    assert pictures["sound"].seconds == 3.0
    assert set(clip_pictures({"audio": audio}, PREPROCESSING)) == {"sound"}
