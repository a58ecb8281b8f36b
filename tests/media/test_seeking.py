from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from made_grid import require_ffmpeg
from made_media import grey, media

from kdcmae.errors import DataError
from kdcmae.media import clip as clip_module
from kdcmae.media.clip import decode, read_clip
from kdcmae.media.extent import survey
from kdcmae.media.frame_numbers import spread_numbers
from kdcmae.media.seeking import sought


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("threads", [1, 8])
def test_frames_sought_are_those_decoded_in_order(name: str, threads: int, tmp_path: Path) -> None:
    path = media(tmp_path / name, count=51, keyframe_every=7)
    track = survey(path, "video")["video"]
    assert len(track.keys) > 5
    frames = sought(path, track, spread_numbers(0, 51), threads)
    assert frames is not None
    np.testing.assert_array_equal(frames, read_clip(path).frames)


def test_one_keyframe_is_decoded_from_once(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mp4", count=50)
    track = survey(path, "video")["video"]
    assert len(track.keys) == 1
    frames = sought(path, track, spread_numbers(0, 50), 1)
    assert frames is not None
    assert grey(frames) == [i * 5 for i in range(10)]


def test_a_file_that_does_not_say_when_frames_are_shown_is_decoded_whole(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.avi", video="mpeg4", audio="mp3")
    track = survey(path, "video")["video"]
    track.pts.pop()
    assert sought(path, track, spread_numbers(0, 50), 1) is None


def test_a_long_clip_is_read_like_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media(tmp_path / "clip.mp4", count=51, keyframe_every=7)
    whole = read_clip(path)
    monkeypatch.setattr(clip_module, "_IN_ONE_GO", 20)
    parts: list[np.ndarray] = []
    decoded = decode(path, ("audio", "video"), parts.append)
    np.testing.assert_array_equal(decoded.frames, whole.frames)
    np.testing.assert_array_equal(np.concatenate(parts), whole.waveform)
    assert decoded.duration_s == pytest.approx(51 / 25, abs=0.1)


def compare_with_all(path: Path) -> None:
    """The sixth and the last of the ten frames, read without the others, are the same."""
    whole = read_clip(path, threads=1)
    for threads in (1, 8):
        part = read_clip(path, threads=threads, frame_numbers=(5, 9))
        np.testing.assert_array_equal(part.waveform, whole.waveform)
        np.testing.assert_array_equal(part.frames, whole.frames[[5, 9]])
    short = read_clip(path, seconds=0.5, frame_numbers=(5,))
    all_of_it = read_clip(path, seconds=0.5)
    np.testing.assert_array_equal(short.waveform, all_of_it.waveform)
    np.testing.assert_array_equal(short.frames, all_of_it.frames[[5]])


_TIMES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 40, 50, 60, 70, 80]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip.mp4", {"keyframe_every": 7}),
        ("clip.mp4", {}),
        ("clip.mkv", {"count": 20, "times": _TIMES}),
        ("clip.ts", {"keyframe_every": 7}),
        ("clip.webm", {"video": "libvpx-vp9", "audio": "libopus", "rate": 48000, "keyframe_every": 7, "count": 30}),
        ("clip.webm", {"video": "libvpx", "audio": "libopus", "rate": 48000, "keyframe_every": 7, "count": 30}),
        ("clip.avi", {"video": "mpeg4", "audio": "mp3"}),
        ("clip.flv", {"audio": "aac"}),
        ("clip.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}, "keyframe_every": 7}),
        ("clip.mp4", {"count": 3}),
    ],
    ids=["groups", "one group", "changing rate", "ts", "vp9", "vp8", "avi", "flv", "no index", "short"],
)
def test_some_of_the_frames_are_those_of_all(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = media(tmp_path / name, **settings)
    compare_with_all(path)


def test_some_frames_of_a_real_clip_are_those_of_all(clips: Path) -> None:
    compare_with_all(clips / "00W1lcxW-WU_40.000.mp4")


def test_some_frames_of_a_size_that_changes_are_those_of_all(tmp_path: Path) -> None:
    parts = [media(tmp_path / f"{width}.ts", audio="aac", size=(width, 48), count=25) for width in (64, 96)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = decode(path, ("video",)).frames
    part = decode(path, ("video",), frame_numbers=(5, 9)).frames
    assert whole is not None
    np.testing.assert_array_equal(part, whole[[5, 9]])


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], ["-bf", "3", "-g", "12"]),
        ([], ["-bf", "3", "-g", "12", "-x264-params", "open-gop=1"]),
        ([], ["-g", "12", "-x264-params", "intra-refresh=1"]),
        ([], ["-c", "copy", "-metadata:s:v", "rotate=90"]),
        (["-ss", "0.7"], ["-c", "copy"]),
        (["-itsoffset", "0.4"], ["-c", "copy"]),
    ],
    ids=["b-frames", "open groups", "intra refresh", "rotated", "edit list", "late start"],
)
def test_some_frames_of_what_ffmpeg_writes_are_those_of_all(
    options: list[str], arguments: list[str], tmp_path: Path
) -> None:
    source = media(tmp_path / "source.mp4", count=50, keyframe_every=15)
    path = tmp_path / "clip.mp4"
    command = [require_ffmpeg(), "-v", "error", *options, "-i", source, *arguments, path]
    subprocess.run(command, check=True, capture_output=True)
    compare_with_all(path)


def test_frames_after_a_keyframe_that_an_edit_list_leaves_out_are_sought(tmp_path: Path) -> None:
    source = media(tmp_path / "source.mp4", count=50, keyframe_every=15)
    path = tmp_path / "clip.mp4"
    command = [require_ffmpeg(), "-v", "error", "-ss", "0.7", "-i", source, "-c", "copy", path]
    subprocess.run(command, check=True, capture_output=True)
    track = survey(path, "video")["video"]
    assert min(track.keys)[0] < min(track.pts)
    frames = sought(path, track, spread_numbers(0, track.packets), 1, as_counted=True)
    np.testing.assert_array_equal(frames, read_clip(path).frames)


def test_pictures_that_no_wanted_frame_needs_are_not_decoded(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mp4", count=50, keyframe_every=10)
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets if packet.pts is not None][41:49]
    content = bytearray(path.read_bytes())
    for place, size in places:
        content[place + 5 : place + size] = bytes(size - 5)
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_clip(path)
    assert grey(read_clip(path, frame_numbers=(5,)).frames) == [25]
