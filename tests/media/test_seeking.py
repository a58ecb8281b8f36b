from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_media import grey, media

from kdcmae.media import clip as clips
from kdcmae.media.clip import decode, read_clip
from kdcmae.media.extent import survey
from kdcmae.media.seeking import sought


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("threads", [1, 8])
def test_frames_sought_are_those_decoded_in_order(name: str, threads: int, tmp_path: Path) -> None:
    path = media(tmp_path / name, count=51, keyframe_every=7)
    track = survey(path, "video")["video"]
    assert len(track.keys) > 5
    frames = sought(path, track, (0, 51), threads)
    assert frames is not None
    np.testing.assert_array_equal(frames, read_clip(path).frames)


def test_one_keyframe_is_decoded_from_once(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mp4", count=50)
    track = survey(path, "video")["video"]
    assert len(track.keys) == 1
    frames = sought(path, track, (0, 50), 1)
    assert frames is not None
    assert grey(frames) == [i * 5 for i in range(10)]


def test_a_file_that_does_not_say_when_frames_are_shown_is_decoded_whole(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.avi", video="mpeg4", audio="mp3")
    track = survey(path, "video")["video"]
    track.pts.pop()
    assert sought(path, track, (0, 50), 1) is None


def test_a_long_clip_is_read_like_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media(tmp_path / "clip.mp4", count=51, keyframe_every=7)
    whole = read_clip(path)
    monkeypatch.setattr(clips, "_IN_ONE_GO", 20)
    parts: list[np.ndarray] = []
    decoded = decode(path, ("audio", "video"), parts.append)
    np.testing.assert_array_equal(decoded.frames, whole.frames)
    np.testing.assert_array_equal(np.concatenate(parts), whole.waveform)
    assert decoded.duration_s == pytest.approx(51 / 25, abs=0.1)
