"""Which frames of a stream are held, and which one a window shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.media.frame_numbers import MIDDLE_FRAME, frames_between, spread_numbers
from kdcmae.runtime.streaming.pictures import PictureTrack
from kdcmae.runtime.streaming.results import StreamStatistics


def held_track(window_s: float, hop_s: float, statistics: StreamStatistics | None = None) -> PictureTrack:
    return PictureTrack(window_s, hop_s, lambda frame: {"image": frame}, statistics or StreamStatistics())


@given(
    fps=st.sampled_from([1.0, 4.0, 7.0, 10.0, 24.0, 25.0, 30000 / 1001, 30.0, 50.0, 60.0, 120.0]),
    hop_s=st.sampled_from([0.1, 0.25, 0.4, 0.5, 1.0]),
    window_s=st.sampled_from([1.0, 1.375, 2.0, 5.12]),
    offset_s=st.floats(-0.5, 0.0),
)
def test_of_a_camera_of_one_rate_every_window_shows_exactly_its_middle_frame(
    fps: float, hop_s: float, window_s: float, offset_s: float
) -> None:
    track = held_track(window_s, hop_s)
    track.origin_s = 0.0
    frame = np.zeros((2, 2, 3), np.uint8)
    times: list[float] = []
    start_s, most = 0.0, 0
    for number in range(int(fps * (window_s + 4))):
        times.append(offset_s + number / fps)
        track.push(times[-1], frame)
        most = max(most, len(track._held))
        while times[-1] >= start_s + window_s:
            middle = spread_numbers(*frames_between(times, start_s, start_s + window_s))[MIDDLE_FRAME]
            shown = track.shown(start_s)
            assert shown is not None
            assert shown.time_s == times[middle]
            start_s = round(start_s / hop_s + 1) * hop_s
            track.forget_before(start_s)
    assert most <= 5 * (window_s / hop_s + 2)


def test_frames_that_are_held_stay_within_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcmae.runtime.streaming.pictures._MOST_BYTES", 5 * 12)
    track = held_track(10.0, 0.25)
    for number in range(100):  # before any sound, every frame may be needed
        track.push(number / 10, np.zeros((2, 2, 3), np.uint8))
    assert [picture.time_s for picture in track._held] == pytest.approx([9.5, 9.6, 9.7, 9.8, 9.9])
