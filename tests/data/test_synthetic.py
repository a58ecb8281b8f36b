from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from kdcmae.data.clip import read_clip
from kdcmae.data.synthetic import demo_clip, write_clip
from kdcmae.errors import DataError

SOUND = (0.3 * np.sin(2 * np.pi * 500 * np.arange(32000) / 16000)).astype(np.float32)


def pictures(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [np.full((height, width, 3), 5 * number, np.uint8) for number in range(count)]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, SOUND, 16000, pictures(50), 25)
    clip = read_clip(path)
    assert [round(float(frame.mean()) / 5) for frame in clip.frames] == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    middle = slice(8000, 24000)
    assert len(clip.waveform) == pytest.approx(32000, abs=2100)
    assert np.corrcoef(clip.waveform[middle], SOUND[middle])[0, 1] > 0.99  # same pitch and no delay
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_may_be_a_generator_and_rates_fractions(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, SOUND.astype(np.float64), 44100, (frame for frame in pictures(30)), Fraction(30000, 1001))
    with av.open(path) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        assert container.streams.audio[0].rate == 44100


def test_without_x264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = tmp_path / "clip.mp4"
    write_clip(path, SOUND, 16000, pictures(10), 25)
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert read_clip(path).frames.shape == (10, 48, 64, 3)


def test_odd_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip("a:b [1].mp4", SOUND, 16000, pictures(10), 25)
    assert read_clip("a:b [1].mp4").frames.shape == (10, 48, 64, 3)


@pytest.mark.parametrize(
    ("sound", "rate", "frames", "fps", "message"),
    [
        (SOUND[None], 16000, pictures(2), 25, r"waveform of shape \(1, 32000\)"),
        (SOUND[:0], 16000, pictures(2), 25, "waveform of shape"),
        ((SOUND * 32767).astype(np.int16), 16000, pictures(2), 25, "dtype int16"),
        (SOUND, 12345, pictures(2), 25, "12345 Hz"),
        (SOUND, 16000, [], 25, "at least one frame"),
        (SOUND, 16000, pictures(2, height=47), 25, "64 x 47 pixels"),
        (SOUND, 16000, pictures(1) + pictures(1, width=32), 25, "frame 1 of shape"),
        (SOUND, 16000, [np.zeros((48, 64, 3), np.float32)], 25, "frame 0 of shape .* float32"),
        (SOUND, 16000, pictures(2), 0, "fps=0 must be positive"),
    ],
)
def test_what_makes_no_clip_leaves_the_old_one(
    sound: np.ndarray, rate: int, frames: list[np.ndarray], fps: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("the old one")
    with pytest.raises(DataError, match=message):
        write_clip(path, sound, rate, frames, fps)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the old one"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield from pictures(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "clip.mp4", SOUND, 16000, frames(), 25)
    assert not list(tmp_path.iterdir())


def test_the_demo_clip_moves_and_sounds(tmp_path: Path) -> None:
    demo_clip(tmp_path / "demo.mp4", seconds=2)
    clip = read_clip(tmp_path / "demo.mp4")
    assert clip.frames.shape == (10, 240, 320, 3)
    steps = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 1  # every frame differs from the one before
    spectra = [np.abs(np.fft.rfft(part)).argmax() for part in clip.waveform[:32000].reshape(8, 4000)]
    assert len(set(spectra)) > 4  # the tone sweeps
    assert clip.waveform.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.05)


def test_demo_clips_of_one_seed_are_equal_and_of_two_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        demo_clip(tmp_path / name, seconds=0.5, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
