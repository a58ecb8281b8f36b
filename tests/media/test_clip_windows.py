from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from made_media import grey, media

from kdcmae.config import Modality
from kdcmae.errors import DataError
from kdcmae.media.clip import read_clip, read_frames, read_waveform
from kdcmae.media.clip_windows import ClipWindow, ClipWindows
from kdcmae.media.windows import Windowing

HALF = Windowing(length=8000, hop=4000)  # half a second, every quarter


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of 25 frames a second, a keyframe every 7."""
    return media(tmp_path_factory.mktemp("clip") / "clip.mp4", count=50, keyframe_every=7)


def seen(windows: list[ClipWindow]) -> list[list[int]]:
    return [grey(np.stack(window.frames or [])) for window in windows]


def between(start_s: float, end_s: float, places: range = range(10)) -> list[int]:
    first, end = round(np.ceil(25 * start_s)), round(np.ceil(25 * end_s))
    return [first + i * (end - first) // 10 for i in places]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi"])
def test_sound_and_frames_of_a_window_are_of_the_same_time(name: str, tmp_path: Path) -> None:
    settings = {"video": "mpeg4", "audio": "mp3"} if name.endswith("avi") else {}
    path = media(tmp_path / name, count=50, keyframe_every=7, **settings)
    whole = read_waveform(path)
    windows = list(ClipWindows(path, "audiovisual", range(10), HALF))
    assert [round(window.start_s * 16000) for window in windows] == HALF.starts(len(whole))
    for window in windows:
        start = round(window.start_s * 16000)
        np.testing.assert_array_equal(window.waveform, whole[start : start + 8000])
        assert window.end_s - window.start_s == pytest.approx(0.5)
    for window, numbers in zip(windows[:-1], seen(windows), strict=False):
        # Codecs start their sound a few milliseconds before or after their pictures.
        assert np.abs(np.subtract(numbers, between(window.start_s, window.end_s))).max() <= 1


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_one_modality_alone(modality: Modality, clip: Path) -> None:
    both = list(ClipWindows(clip, "audiovisual", (5,), HALF))
    alone = list(ClipWindows(clip, modality, (5,), HALF))
    assert all((window.waveform is None) == (modality == "video") for window in alone)
    assert all((window.frames is None) == (modality == "audio") for window in alone)
    if modality == "audio":
        assert [window.start_s for window in alone] == [window.start_s for window in both]
    else:
        assert seen(alone)[:6] == [between(k / 4, k / 4 + 0.5, range(5, 6)) for k in range(6)]


def test_a_clip_of_one_window_is_read_as_training_reads_it(clip: Path) -> None:
    for seconds in (2.5, 4.0):
        (window,) = ClipWindows(clip, "audiovisual", range(10), Windowing(length=round(16000 * seconds), hop=1))
        trained = read_clip(clip, seconds=seconds)
        np.testing.assert_array_equal(window.waveform, trained.waveform)
        np.testing.assert_array_equal(window.frames, trained.frames)


def test_training_sees_what_is_shown_while_it_hears(clip: Path) -> None:
    start = read_clip(clip, seconds=1.0)
    assert len(start.waveform) == 16000
    assert grey(start.frames) == between(0, 1)
    assert grey(read_clip(clip, seconds=2.5).frames) == grey(read_clip(clip).frames) == between(0, 2)
    np.testing.assert_array_equal(read_frames(clip, seconds=1.0), start.frames)
    first = next(iter(ClipWindows(clip, "audiovisual", range(10), Windowing(length=16000, hop=16000))))
    np.testing.assert_array_equal(first.frames, start.frames)


@pytest.mark.parametrize("delay_s", [0.4, -0.4])
def test_streams_that_do_not_start_together(delay_s: float, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(clip) as reader, av.open(path, "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.size:
                late = 3.0 + (delay_s if packet.stream.type == "audio" else 0)  # and the file does not start at 0
                packet.pts, packet.dts = (stamp + round(late / packet.time_base) for stamp in (packet.pts, packet.dts))
                packet.stream = copies[packet.stream.index]
                writer.mux(packet)
    windows = list(ClipWindows(path, "audiovisual", (0,), HALF))
    expected = [min(49, max(0, round(25 * (window.start_s + delay_s)))) for window in windows]
    assert np.abs(np.subtract([numbers[0] for numbers in seen(windows)], expected)).max() <= 1


def test_a_file_that_does_not_say_when_frames_are_shown(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought = list(ClipWindows(clip, "audiovisual", range(10), HALF))
    monkeypatch.setattr("kdcmae.media.clip_windows.seekable", lambda track: False)
    for ours, theirs in zip(ClipWindows(clip, "audiovisual", range(10), HALF), sought, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)


def test_frames_are_decoded_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []
    from kdcmae.media import clip_windows

    monkeypatch.setattr(
        clip_windows, "upright_rgb", lambda frame, size: converted.append(frame.pts) or np.zeros((2, 2, 3), np.uint8)
    )
    list(ClipWindows(clip, "audiovisual", range(10), Windowing(length=16000, hop=1000)))
    assert all(first < second for first, second in pairwise(converted))


def test_damage_in_a_later_window_is_an_error(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.ts", count=51, keyframe_every=51)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        list(ClipWindows(path, "audiovisual", range(10), HALF))
