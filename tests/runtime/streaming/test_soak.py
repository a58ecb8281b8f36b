"""Long streams by an accelerated clock: nothing grows, nothing drifts, and scores are those of files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.media.windows import Windowing
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.streaming.results import StreamStatistics
from kdcmae.runtime.streaming.sound import JITTER_S, SoundTrack

FPS, WINDOW_S, HOP_S = 5, 2.0, 1.0
ROOM = 16 << 20  # bytes that come and go: eight waiting windows of 0.7 MB, and frames of 0.6 MB


def _clip(path: Path, seconds: int) -> Path:
    from kdcmae.data.synthetic import write_clip

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (seconds * FPS, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    write_clip(path, rng.uniform(-0.5, 0.5, 16000 * seconds).astype(np.float32), 16000, pictures, FPS)
    return path


@pytest.mark.parametrize("seconds", [60, pytest.param(3600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_long_stream_is_flat_in_memory_does_not_drift_and_scores_as_its_file(
    seconds: int, tiny: Any, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    from kdcmae.media.capture import media_file
    from kdcmae.runtime.streaming.capturing import capturing

    clip = _clip(tmp_path / "clip.mp4", seconds)
    memory, count = [], 0
    with load_engine(tiny.make("onnx", ["audio", "image"], BatchRange(1, 1, 1))) as engine:
        expected = engine.classify_file(clip, window=WINDOW_S, hop=HOP_S, top=3)
        tracemalloc.start()
        try:
            stream = engine.stream(hop=HOP_S, window=WINDOW_S, top=3, patience=10.0, overrun="block")
            with stream, capturing(stream, [media_file(clip, ("audio", "video"))], pace=0):
                for result, window in zip(stream, expected.windows, strict=True):
                    count += 1
                    assert result.start_s == pytest.approx(window.start_s, abs=1e-6)
                    assert result.frame_s is not None
                    assert abs(result.frame_s - result.start_s - WINDOW_S / 2) <= 1 / FPS
                    ours, theirs = ({p.label: p.score for p in each.predictions} for each in (result, window))
                    assert ours == pytest.approx(theirs, abs=1e-6)
                    if count % (seconds // 6) == 0:
                        memory.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert count == len(expected.windows) >= seconds - 2
    assert max(memory[1:]) - memory[1] < ROOM
    statistics = stream.statistics
    assert (statistics.silence_s, statistics.overlap_s, statistics.late_frames, statistics.restarts) == (0, 0, 0, 0)
    assert statistics.windows == count


@pytest.mark.parametrize("per_second", [15997, 16003])
def test_a_sound_card_of_another_clock_does_not_drift_from_the_frames_in_an_hour(per_second: int) -> None:
    """Two hundred millionths off: 0.7 s in an hour, which silence or cuts of at most 50 ms make good."""
    statistics = StreamStatistics()
    track = SoundTrack(Windowing(length=16000, hop=16000), "mean", statistics)
    block = np.zeros(per_second, np.float32)
    for second in range(3600):
        windows = list(track.push(block, 16000, float(second)))
        assert abs(track.end_s - second - 1) <= JITTER_S + 0.001
        assert len(windows) <= 2
    assert statistics.restarts == 0
    assert statistics.silence_s + statistics.overlap_s == pytest.approx(0.675, abs=0.06)
