"""Sources of sound and frames with timestamps; tests/cli/test_listen.py runs them through an engine."""

from __future__ import annotations

import wave
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_media import media

from kdcmae.errors import DataError
from kdcmae.media import capture
from kdcmae.media.clip import read_frames, read_waveform
from kdcmae.media.resampling import resample


def test_a_file_gives_all_its_sound_and_frames_in_time(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mkv", count=50)
    pieces = list(capture.captured(capture.media_file(path, ("audio", "video"))))
    frames = [piece for piece in pieces if piece.frame is not None]
    sound = [piece for piece in pieces if piece.samples is not None]
    times = [piece.time_s for piece in frames]
    assert times == sorted(times)
    shown = [frame.frame() for frame in frames if frame.frame is not None]
    spread = [shown[number * len(shown) // 10] for number in range(10)]
    np.testing.assert_array_equal(spread, read_frames(path))
    samples = np.concatenate([piece.samples for piece in sound if piece.samples is not None], axis=1)
    np.testing.assert_allclose(resample(samples, sound[0].sample_rate_hz), read_waveform(path), atol=1e-6)
    for before, after in pairwise(sound):
        assert after.time_s == pytest.approx(before.time_s + before.duration_s, abs=0.002)


@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 8000), (2, 44100), (6, 48000)])
def test_sound_of_any_rate_and_channels_is_that_of_its_file(channels: int, rate_hz: int, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    sound = np.random.default_rng(0).integers(-8000, 8000, (rate_hz, channels)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(sound.tobytes())
    pieces = list(capture.captured(capture.media_file(path, ("audio",))))
    samples = np.concatenate([piece.samples for piece in pieces if piece.samples is not None], axis=1)
    assert len(samples) == {1: 1, 2: 2, 6: 1}[channels]
    np.testing.assert_allclose(resample(samples, rate_hz), read_waveform(path), atol=1e-6)


def test_raw_samples_in_a_pipe_need_their_format(tmp_path: Path) -> None:
    samples = np.arange(-16000, 16000, dtype="<i2")
    options = {"sample_rate": "8000", "ch_layout": "mono"}
    source = capture.pipe(BytesIO(samples.tobytes()), ("audio",), format="s16le", options=options)
    pieces = list(capture.captured(source))
    assert pieces[0].time_s == 0.0
    assert {piece.sample_rate_hz for piece in pieces} == {8000}
    heard = np.concatenate([piece.samples for piece in pieces if piece.samples is not None], axis=1)
    np.testing.assert_array_equal(heard, samples[None])
    with pytest.raises(DataError, match="the pipe cannot be read"):
        list(capture.captured(capture.pipe(BytesIO(b"nothing"), ("audio",))))


def test_systems_name_their_devices_and_how_to_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str]] = []

    def refuse(url: str, mode: str, *, format: str, options: dict[str, str]) -> None:
        opened.append((url, format))
        raise ValueError("none here")

    monkeypatch.setattr(capture, "_has_format", lambda name: True)
    monkeypatch.setattr(capture.av, "open", refuse)
    for system, listing in (("linux", "v4l2-ctl"), ("darwin", "avfoundation"), ("win32", "dshow"), ("plan9", "--pipe")):
        monkeypatch.setattr(capture.sys, "platform", system)
        with pytest.raises(capture.DeviceError, match=listing):
            next(capture.captured(capture.camera("A")))
        with pytest.raises(capture.DeviceError):
            next(capture.captured(capture.microphone("B")))
    assert opened == [
        ("A", "v4l2"),
        ("B", "pulse"),
        ("B", "alsa"),
        ("A:none", "avfoundation"),
        ("none:B", "avfoundation"),
        ("video=A", "dshow"),
        ("audio=B", "dshow"),
    ]
