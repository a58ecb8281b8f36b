from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.errors import ConfigError
from kdcmae.media.windows import Cutter, Windowing


@pytest.mark.parametrize(
    ("total", "length", "hop", "starts"),
    [
        (0, 10, 5, [0]),
        (7, 10, 5, [0]),
        (10, 10, 5, [0]),
        (11, 10, 5, [0, 1]),
        (20, 10, 5, [0, 5, 10]),
        (23, 10, 5, [0, 5, 10, 13]),
        (23, 10, 10, [0, 10, 13]),
        (41, 10, 20, [0, 20, 31]),
        (30, 10, 20, [0, 20]),
    ],
)
def test_the_last_window_ends_with_the_sound(total: int, length: int, hop: int, starts: list[int]) -> None:
    assert Windowing(length=length, hop=hop).starts(total) == starts


@given(
    total=st.integers(1, 300),
    length=st.integers(1, 60),
    hop=st.integers(1, 90),
    pieces=st.lists(st.integers(0, 80), max_size=20),
)
def test_a_sound_that_arrives_is_cut_like_a_whole_one(total: int, length: int, hop: int, pieces: list[int]) -> None:
    sound, windowing = np.arange(total), Windowing(length=length, hop=hop)
    cutter, windows, start = Cutter(windowing), [], 0
    for size in [*pieces, total]:
        windows += cutter.push(sound[start : start + size])
        start += size
    windows += cutter.finish()
    assert [window.start for window in windows] == windowing.starts(total)
    for window in windows:
        np.testing.assert_array_equal(window.samples, sound[window.start : window.start + length])


def test_what_is_held_is_a_window_and_a_hop() -> None:
    cutter, piece = Cutter(Windowing(length=10_000, hop=3_000)), np.zeros(4_000, np.float32)
    tracemalloc.start()
    for _ in range(50):
        cutter.push(piece)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 1.5 * 4 * (10_000 + 3_000)


def test_windows_in_seconds() -> None:
    def made(window_s: float | None, hop_s: float | None) -> tuple[int, int]:
        windowing = Windowing.of(window_s, hop_s, longest=4000, sample_rate_hz=1000)
        return windowing.length, windowing.hop

    assert made(None, None) == (4000, 2000)
    assert made(2.5, None) == (2500, 1250)
    assert made(None, 0.1) == (4000, 100)
    assert made(1, 1) == (1000, 1000)
    assert made(0.025, None) == (25, 12)
    assert made(None, 0.01) == (4000, 10)
    with pytest.raises(ConfigError, match=r"a window of 5 s is more than the 4\.00 s that the model hears"):
        made(5, None)
    with pytest.raises(ConfigError, match=r"a window of 0\.02 s is less than one .*; give 0\.025 s or more"):
        made(0.02, None)
    with pytest.raises(ConfigError, match=r"a hop of 0\.0001 s is less than .*; give 0\.01 s or more"):
        made(None, 0.0001)
    with pytest.raises(ConfigError, match=r"a hop of 60 s leaves out sound between windows of 4 s; give a hop that"):
        made(None, 60)
    for value in (float("nan"), float("inf"), "1"):
        with pytest.raises(ConfigError, match=r"window=.* must be a finite number of seconds"):
            made(value, None)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"hop=.* must be a finite number of seconds"):
            made(None, value)  # type: ignore[arg-type]
    assert made(np.float32(2.5), np.float32(1)) == (2500, 1000)
    with pytest.raises(ConfigError, match="hop=0 of the windows must be at least one sample"):
        Windowing(length=1, hop=0)
