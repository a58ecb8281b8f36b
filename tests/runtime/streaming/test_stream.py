"""Streams of sound and frames through an engine, in the order and at the times that tests choose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import ConfigError, DataError, EngineError, EngineInputError
from kdcmae.runtime import Engine, load_engine
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.streaming.stream import Stream

RATE_HZ = 16000
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE_HZ).astype(np.float32)


def picture(number: int) -> np.ndarray:
    """A grey frame that tells its number."""
    return np.full((32, 40, 3), number % 256, np.uint8)


@pytest.fixture
def engine(tiny: Any) -> Iterator[Engine]:
    with load_engine(tiny.make("onnx", ["audio", "image"], BatchRange(1, 1, 4))) as engine:
        yield engine


def push(stream: Stream, *, until_s: float = 8.0, from_s: float = 0.0, block_s: float = 0.1, fps: float = 25.0) -> None:
    """Sound and frames of some seconds, in the order of their timestamps."""
    for start in np.arange(from_s, until_s, block_s):
        first, end = (round(RATE_HZ * time_s) for time_s in (start, min(start + block_s, until_s)))
        for number in range(int(np.ceil(start * fps - 1e-6)), int(np.ceil((start + block_s) * fps - 1e-6))):
            stream.push_frame(picture(number), number / fps)
        stream.push_audio(SOUND[first:end], first / RATE_HZ)


def scored(engine: Engine, start_s: float, window_s: float, number: int) -> list[float]:
    samples = SOUND[round(RATE_HZ * start_s) : round(RATE_HZ * (start_s + window_s))]
    return [prediction.score for prediction in engine.classify(samples, RATE_HZ, picture(number), top=3)]


@pytest.mark.parametrize(("block_s", "rate_hz"), [(0.01, 16000), (0.1, 16000), (2.0, 16000), (0.1, 48000)])
def test_every_window_has_the_scores_of_its_sound_and_its_middle_frame(
    engine: Engine, block_s: float, rate_hz: int
) -> None:
    with engine.stream(rate_hz, hop=0.5, window=2.0, top=3, backlog=100) as stream:
        if rate_hz == RATE_HZ:
            push(stream, block_s=block_s)
        else:  # the same sound at three times the rate keeps its length and its windows
            for number in range(200):
                stream.push_frame(picture(number), number / 25)
            stream.push_audio(np.repeat(SOUND, 3), 0.0)
        stream.finish()
        results = list(stream)
    assert [result.start_s for result in results] == [0.5 * number for number in range(13)]
    for number, result in enumerate(results):
        assert result.end_s - result.start_s == pytest.approx(2.0)
        middle = int(np.ceil(25 * result.start_s)) + 25
        assert result.frame_s == pytest.approx(middle / 25)
        if rate_hz == RATE_HZ:
            expected = scored(engine, 0.5 * number, 2.0, middle)
            assert [prediction.score for prediction in result.predictions] == pytest.approx(expected, abs=1e-6)
    assert stream.statistics.windows == 13


def test_capture_threads_push_while_another_takes_results(engine: Engine) -> None:
    def frames() -> None:
        for number in range(200):
            stream.push_frame(lambda number=number: picture(number), number / 25)

    def sound() -> None:
        for first in range(0, len(SOUND), 1000):
            stream.push_audio(SOUND[first : first + 1000])

    with engine.stream(hop=0.5, window=2.0, backlog=2, overrun="block", patience=100.0) as stream:
        threads = [threading.Thread(target=target) for target in (frames, sound)]
        for thread in threads:
            thread.start()
        ender = threading.Thread(target=lambda: ([thread.join() for thread in threads], stream.finish()))
        ender.start()
        results = list(stream)
        ender.join()
    assert [result.start_s for result in results] == [0.5 * number for number in range(13)]
    assert stream.statistics.dropped_windows == 0


def test_closing_frees_a_push_that_waits_and_ends_the_iteration(engine: Engine) -> None:
    stream = engine.stream(hop=0.1, window=1.0, backlog=1, overrun="block")
    pushing = threading.Thread(target=push, args=(stream,))
    pushing.start()
    first = next(iter(stream))
    stream.close()
    stream.close()
    pushing.join(timeout=10)
    assert not pushing.is_alive()
    assert first.start_s == 0.0
    assert list(stream) == []
    stream.push_audio(SOUND)  # ignored
    assert list(stream.ready()) == []


def test_a_slow_consumer_loses_the_oldest_windows_and_misses_are_counted(engine: Engine) -> None:
    times = iter(np.arange(0.0, 1000.0, 0.2))
    settings = engine.stream(hop=0.5, window=1.0, backlog=3)._settings
    with Stream(engine, settings, clock=lambda: float(next(times))) as stream:
        push(stream)
        results = list(stream.ready())
        assert [result.end_s for result in results] == [6.5, 7.0, 7.5]  # the last one waits for a frame
        assert len(results) == 3
        statistics = stream.statistics
    assert statistics.dropped_windows >= 10
    assert statistics.deadline_misses == sum(result.missed for result in results)
    assert statistics.latency_max_ms >= statistics.latency_p90_ms >= statistics.latency_p50_ms > 0


def test_what_did_not_change_is_neither_prepared_nor_passed_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds: list[dict[str, np.ndarray]] = []
    infer = engine.infer
    monkeypatch.setattr(engine, "infer", lambda feed: (feeds.append(feed), infer(feed))[1])
    with engine.stream(hop=0.25, window=1.0, backlog=100) as stream:
        for number in range(4):  # a frame per second, and silence
            stream.push_frame(picture(number), float(number))
            stream.push_audio(np.zeros(RATE_HZ, np.float32), float(number))
        stream.push_frame(picture(4), 4.0)
        assert len(list(stream.ready())) == len(feeds) == 13
        statistics = stream.statistics
    assert len({id(feed["audio"]) for feed in feeds}) == 1
    assert len({id(feed["image"]) for feed in feeds}) == 4
    assert statistics.reused_sounds == 12
    assert statistics.reused_frames == 9


def test_only_frames_that_a_window_may_show_are_decoded(engine: Engine) -> None:
    decoded: list[int] = []
    with engine.stream(hop=0.5, window=2.0, backlog=100) as stream:
        stream.push_audio(SOUND[:160], 0.0)
        for number in range(480):
            stream.push_frame(lambda number=number: (decoded.append(number), picture(number))[1], number / 60)
    assert 16 <= len(decoded) < 80


def test_missing_sound_is_silence_and_sound_that_comes_twice_is_dropped(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=1.0, top=3, backlog=100) as stream:
        for number in range(100):
            stream.push_frame(picture(number), number / 25)
        stream.push_audio(SOUND[:16000], 0.0)
        stream.push_audio(SOUND[24000:40000], 1.5)
        stream.push_audio(SOUND[32000:48000], 2.0)
        results = {result.start_s: result for result in stream.ready()}
        statistics = stream.statistics
    gap = np.concatenate([SOUND[8000:16000], np.zeros(8000, np.float32)])
    expected = engine.classify(gap, RATE_HZ, picture(25), top=3)
    assert results[0.5].predictions == tuple(expected)
    assert [p.score for p in results[2.0].predictions] == pytest.approx(scored(engine, 2.0, 1.0, 62), abs=1e-5)
    assert statistics.silence_s == pytest.approx(0.5)
    assert statistics.overlap_s == pytest.approx(0.5)
    assert statistics.restarts == 0


def test_a_jitter_of_timestamps_changes_nothing(engine: Engine) -> None:
    jitter = np.random.default_rng(1).uniform(-0.02, 0.02, 80)
    with engine.stream(hop=0.5, window=1.0, backlog=100) as stream:
        for number, offset in enumerate(jitter):
            stream.push_frame(picture(number), number / 10)
            stream.push_audio(SOUND[1600 * number : 1600 * (number + 1)], number / 10 + (offset if number else 0.0))
        assert (stream.statistics.silence_s, stream.statistics.overlap_s) == (0, 0)
        assert [result.start_s for result in stream.ready()] == [0.5 * number for number in range(14)]


def test_a_microphone_that_falls_silent_does_not_stop_the_stream(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=2.0, patience=0.25, backlog=100) as stream:
        push(stream, until_s=2.0)
        for number in range(50, 100):
            stream.push_frame(picture(number), number / 25)
        results = list(stream.ready())
        assert results[-1].end_s == pytest.approx(3.5)
        stream.push_audio(SOUND[32000:64000], 2.0)  # what comes too late is dropped where silence already stands
        statistics = stream.statistics
    assert statistics.silence_s == pytest.approx(1.61, abs=0.06)
    assert statistics.overlap_s == pytest.approx(statistics.silence_s, abs=0.06)


def test_a_camera_that_stops_leaves_its_last_frame(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=1.0, patience=0.2, backlog=100) as stream:
        push(stream, until_s=2.0)
        for first in range(32000, 96000, 1600):
            stream.push_audio(SOUND[first : first + 1600], first / RATE_HZ)
        results = list(stream.ready())
    assert [result.start_s for result in results] == [0.5 * number for number in range(10)]
    assert results[-1].frame_s == pytest.approx(1.96, abs=0.5)  # of the last hop


def test_late_frames_and_duplicates_are_dropped_and_counted(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=1.0, backlog=100) as stream:
        push(stream, until_s=4.0)
        stream.push_frame(picture(1), 0.5)
        stream.push_frame(picture(99), 99 / 25)
        stream.push_frame(picture(100), 100 / 25)
        stream.push_frame(picture(98), 3.985)  # out of order, and early enough
        statistics = stream.statistics
    assert (statistics.late_frames, statistics.duplicate_frames) == (1, 1)


@pytest.mark.parametrize("jump_s", [-100.0, 1000.0])
def test_a_jump_of_the_clock_starts_the_windows_anew(engine: Engine, jump_s: float) -> None:
    with engine.stream(hop=0.5, window=1.0, top=3, backlog=100) as stream:
        push(stream, until_s=2.0)
        for number in range(20):
            stream.push_audio(SOUND[1600 * number : 1600 * (number + 1)], 2.0 + jump_s + number / 10)
            stream.push_frame(picture(number), 2.0 + jump_s + number / 10)
        stream.finish()
        starts = [result.start_s for result in stream]
    assert starts == pytest.approx([0.0, 0.5, 1.0, *(2.0 + jump_s + np.array([0.0, 0.5, 1.0]))])
    assert stream.statistics.restarts == 1
    assert stream.statistics.silence_s == 0


def test_sound_shorter_than_a_frame_of_the_spectrogram_does_not_end_the_stream_with_an_error(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=1.0, top=3, backlog=100) as stream:
        push(stream, until_s=2.0)
        stream.push_audio(SOUND[:399], 1000.0)
        stream.push_frame(picture(0), 1000.0)
        stream.finish()
        assert [result.start_s for result in stream] == pytest.approx([0.0, 0.5, 1.0])


def test_without_a_frame_nothing_is_scored_unless_the_engine_has_a_variant(engine: Engine) -> None:
    with engine.stream(hop=0.5, window=1.0, patience=0.0, backlog=100) as stream:
        stream.push_audio(SOUND[:48000])
        assert list(stream.ready()) == []
        assert stream.statistics.unscored_windows == 5
    with pytest.raises(ConfigError, match="modality='audio': the engine takes audiovisual; rebuild it with --modal"):
        engine.stream(modality="audio")


@pytest.mark.parametrize(("names", "modality"), [(["audio"], "audio"), (["image"], "video")])
def test_engines_of_one_modality(tiny: Any, names: list[str], modality: str) -> None:
    folder = tiny.make("onnx", names, BatchRange(2, 2, 2))  # a batch that one window has to fill
    tiny.edit(folder, lambda content: content["model"].update(modality=modality))
    with load_engine(folder) as engine, engine.stream(hop=0.5, window=1.0, backlog=100) as stream:
        push(stream, until_s=3.0)
        stream.push_frame(picture(75), 3.0)
        results = list(stream.ready())
        statistics = stream.statistics
    assert [result.start_s for result in results] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [result.frame_s is None for result in results] == [modality == "audio"] * 5
    assert statistics.silence_s == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hop": 0.001}, ConfigError, "hop of 0.001 s"),
        ({"hop": 11.0}, ConfigError, "leaves out sound"),
        ({"window": 60.0}, ConfigError, "more than the"),
        ({"patience": -1.0}, ConfigError, "patience=-1.0"),
        ({"deadline": 0.0}, ConfigError, "deadline=0.0"),
        ({"backlog": 0}, ConfigError, "backlog=0"),
        ({"overrun": "wait"}, ConfigError, "overrun='wait' must be one of drop, block"),
        ({"top": 0}, EngineInputError, "top=0"),
        ({"sample_rate": 5}, DataError, "sample rate 5"),
    ],
)
def test_settings_out_of_range_are_refused(
    engine: Engine, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        engine.stream(**settings)


def test_what_is_no_sound_or_frame_is_refused_and_harms_nothing(engine: Engine, tiny: Any) -> None:
    with engine.stream(hop=0.5, window=1.0, backlog=100) as stream:
        push(stream, until_s=1.0)
        with pytest.raises(DataError, match="transpose it"):
            stream.push_audio(np.zeros((16000, 2), np.float32))
        with pytest.raises(DataError, match="NaN"):
            stream.push_audio(np.full(100, np.nan, np.float32))
        with pytest.raises(DataError, match="must be a numpy array"):
            stream.push_audio([0.0])  # type: ignore[arg-type]
        with pytest.raises(DataError, match="sample rate 7"):
            stream.push_audio(SOUND[:100], sample_rate=7)
        with pytest.raises(DataError, match="uint8, RGB"):
            stream.push_frame(np.zeros((4, 4)), 1.5)  # type: ignore[arg-type]
        with pytest.raises(EngineInputError, match="timestamp=nan"):
            stream.push_frame(picture(1), float("nan"))
        stream.push_frame(picture(1), np.float32(1.0))
        push(stream, from_s=1.0, until_s=3.0)
        assert [result.start_s for result in stream.ready()][:4] == [0.0, 0.5, 1.0, 1.5]


def test_features_are_no_stream(tiny: Any) -> None:
    with load_engine(tiny.make("onnx", ["audio", "image"], labels=())) as engine, pytest.raises(EngineError):
        engine.stream()
