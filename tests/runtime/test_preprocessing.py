from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcmae.errors import ConfigError, DataError
from kdcmae.runtime.preprocessing import (
    FRAME_LENGTH,
    LOG_FLOOR,
    Preprocessing,
    fbank,
    fbank_matrices,
    prepare_audio,
    prepare_image,
    resize_crop_bands,
    resize_crop_matrices,
    resize_crop_matrix,
)

MODEL = Preprocessing()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth gradients with sharp edges on top, as uint8 RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([128 + 120 * np.sin(x / 17 + c) * np.cos(y / 23 - c) for c in range(3)], axis=-1)
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 2, 3) * 255
    return image.astype(np.uint8)


# --- filterbank


def test_fbank_is_kaldis(golden: Path) -> None:
    reference = np.load(golden / "fbank.npz")
    difference = np.abs(fbank(reference["waveform_int16"] / np.float32(32768)) - reference["fbank"])
    assert difference.mean() < 1e-5
    assert difference.max() < 1e-3


def test_fbank_of_a_tone_peaks_in_its_band() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    _, mel = fbank_matrices()
    band = mel[1000 * 512 // 16000].argmax()
    assert set(fbank(tone).argmax(axis=1)) == {band}


def test_fbank_of_silence_is_the_floor() -> None:
    np.testing.assert_array_equal(fbank(np.zeros(1600, np.float32)), np.float32(np.log(LOG_FLOOR)))


def test_fbank_ignores_a_constant_offset() -> None:
    waveform = noise(8000).astype(np.float64)
    np.testing.assert_allclose(fbank(waveform + 0.25), fbank(waveform), atol=1e-5)


@given(samples=st.integers(FRAME_LENGTH, 3 * 16000))
@settings(max_examples=30, deadline=None)
def test_fbank_frames_are_independent(samples: int) -> None:
    waveform = noise(samples)
    features = fbank(waveform)
    assert features.shape == (1 + (samples - 400) // 160, 128)
    last = (len(features) - 1) * 160
    np.testing.assert_allclose(fbank(waveform[last : last + 400])[0], features[-1], atol=1e-5)


def test_long_waveforms_are_computed_in_chunks_without_seams() -> None:
    waveform = noise(16000 * 12)  # more frames than one matrix product takes
    features = fbank(waveform)
    np.testing.assert_allclose(features[1000:1050], fbank(waveform[160000:])[:50], atol=1e-5)


@pytest.mark.parametrize("shape", [(0,), (399,), (2, 1600)])
def test_fbank_refuses_what_has_no_frame(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="400 samples"):
        fbank(np.zeros(shape, np.float32))


def test_the_matrices_cannot_be_changed_by_a_caller() -> None:
    bands = [band.matrix for bands in resize_crop_bands(10, 10, 4) for band in bands]
    for matrix in (*fbank_matrices(), *resize_crop_matrices(10, 10, 4), *bands):
        with pytest.raises(ValueError, match="read-only"):
            matrix[0, 0] = 1.0


# --- audio input


def test_audio_is_padded_with_zeros_before_normalising() -> None:
    waveform = noise(16000)
    audio = prepare_audio(waveform, 16000, MODEL)
    assert audio.shape == (1, 1024, 128)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio[0, :98], (fbank(waveform) + 5.081) / 4.4849, atol=1e-6)
    np.testing.assert_allclose(audio[0, 98:], 5.081 / 4.4849, rtol=1e-6)


def test_long_audio_is_cut() -> None:
    waveform = noise(16000 * 12)
    shorter = replace(MODEL, audio_frames=64)
    np.testing.assert_allclose(
        prepare_audio(waveform, 16000, MODEL)[:, :64], prepare_audio(waveform, 16000, shorter), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64, np.uint8, np.int8])
def test_every_sample_format_means_the_same_sound(dtype: type) -> None:
    steps = np.random.default_rng(0).integers(-100, 100, 4000) / 128  # exact in 8 bits
    if np.dtype(dtype).kind == "i":
        samples = (steps * 2.0 ** (8 * np.dtype(dtype).itemsize - 1)).astype(dtype)
    else:
        samples = (steps * 128 + 128 if dtype is np.uint8 else steps).astype(dtype)
    reference = prepare_audio(steps.astype(np.float32), 16000, MODEL)
    np.testing.assert_allclose(prepare_audio(samples, 16000, MODEL), reference, atol=1e-6)


# --- image input


@pytest.mark.parametrize(
    ("height", "width"), [(360, 640), (640, 360), (224, 224), (225, 300), (100, 173), (224, 227), (37, 35), (720, 1280)]
)
def test_resizing_matches_torch(height: int, width: int) -> None:
    frame = photograph(height, width)
    short = min(height, width)
    size = (224 * height // short, 224 * width // short)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    channels = torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32))
    resized = torch.nn.functional.interpolate(channels, size=size, mode="bicubic", antialias=True)[0].numpy()
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = resized[:, top : top + 224, left : left + 224]

    rows, columns = resize_crop_matrices(height, width, 224)
    np.testing.assert_allclose(rows @ frame.transpose(2, 0, 1) @ columns.T, expected, atol=255e-4)


# A picture of 8 bits per channel: the rounding of one direction, which overshoots by a quarter, and of the other.
ROUNDING = 0.5 * 1.25 + 0.5
SHAPES = [(360, 640), (640, 360), (224, 224), (225, 300), (100, 173), (223, 225), (37, 35), (720, 1280), (16, 1920),
          (1920, 16), (1, 9), (5, 7)]  # fmt: skip


def pictures(height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Noise, extreme noise, checkerboards of several sizes, edges, a corner, dots and gradients."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    yield rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    yield np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], 2).astype(np.uint8)
    for first in ((x + y) % 2, (x // 2 + y // 2) % 2, (x // 3 + y // 3) % 2):
        others = (x * height > y * width, (x > width // 2) & (y > height // 2))
        yield 255 * np.stack([first, *others], 2).astype(np.uint8)
    yield 255 * (rng.random((height, width, 3)) < 0.02).astype(np.uint8)
    yield np.full((height, width, 3), 255, np.uint8)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [112, 224])
def test_pictures_are_those_of_pil_but_for_its_rounding(height: int, width: int, size: int) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    plain = replace(MODEL, image_size=size, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    short = min(height, width)
    resized = (size * width // short, size * height // short)
    left, top = (round((side - size) / 2) for side in resized)
    for picture in pictures(height, width):
        pil = np.asarray(image.fromarray(picture).resize(resized, image.Resampling.BICUBIC))
        wanted = pil[top : top + size, left : left + size].transpose(2, 0, 1).astype(np.float32)
        prepared = prepare_image(picture, plain)
        assert prepared.dtype == np.float32
        assert np.abs(255 * prepared[0] - wanted).max() < ROUNDING + 0.01


def test_pictures_are_normalised_by_colour() -> None:
    frame = np.full((50, 60, 3), (0, 51, 255), np.uint8)
    facts = replace(MODEL, image_mean=(0.5, 0.2, 0.0), image_std=(0.5, 1.0, 0.25))
    np.testing.assert_allclose(prepare_image(frame, facts).mean(axis=(0, 2, 3)), (-1.0, 0.0, 4.0), atol=1e-5)


@given(size_in=st.integers(1, 400), size_out=st.integers(1, 60), extra=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_resizing_keeps_constants_and_mirrors(size_in: int, size_out: int, extra: int) -> None:
    matrix = resize_crop_matrix(size_in, size_out + 2 * extra, size_out)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-9)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    np.testing.assert_allclose(resize_crop_matrix(224, 224, 224), np.eye(224), atol=1e-12)


def test_overshoot_is_clipped() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, 32:] = 255
    plain = replace(MODEL, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    image = prepare_image(frame, plain)
    assert image.min() == 0.0
    assert image.max() == 1.0


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(frame: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"must be \(H, W, 3\) uint8"):
        prepare_image(frame, MODEL)


# --- facts as data


def test_facts_survive_json() -> None:
    facts = replace(MODEL, audio_frames=512, image_mean=(0.5, 0.4, 0.3))
    assert Preprocessing.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fbank_std": 1e-320}, "it must be a positive number"),
        ({"image_mean": [1e300, 0, 0]}, "it must be three numbers"),
        ({"fbank_mean": 10**400}, "it must be a number"),
        ({"sample_rate_hz": 22050}, "sample_rate_hz=22050 is not supported; it must be 16000"),
        ({"sample_rate_hz": "16000"}, "sample_rate_hz"),
        ({"window": "povey"}, "window='povey'"),
        ({"interpolation": "bilinear"}, "it must be 'bicubic'"),
        ({"audio_frames": 0}, "audio_frames=0"),
        ({"audio_frames": 10.5}, "audio_frames=10.5"),
        ({"image_size": True}, "image_size=True"),
        ({"fbank_std": 0.0}, "fbank_std=0.0"),
        ({"fbank_mean": float("nan")}, "fbank_mean=nan"),
        ({"image_std": [0.2, 0.2]}, "image_std"),
        ({"image_std": [0.2, 0.2, 0.0]}, "three positive numbers"),
        ({"image_mean": "abc"}, "image_mean='abc'"),
        ({"dither": 1.0}, r"unknown preprocessing facts \['dither'\]"),
    ],
)
def test_facts_that_cannot_be_honoured_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict({**MODEL.to_dict(), **change})
