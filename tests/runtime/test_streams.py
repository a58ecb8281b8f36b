"""Calls that run at the same time: through threads, futures, an iterator and an event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import ConfigError, EngineError, EngineInputError
from kdcmae.runtime import Engine, load_engine
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend, Lane, Streams
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.preprocessing import Preprocessing

WAIT_S = 30  # for what happens at once, unless it never does


class Counting(Backend):
    """Counts the calls that run at the same time, and runs them one after another unless it is given lanes."""

    def __init__(self, compute: Callable[[Arrays], Arrays], lanes: int = 1) -> None:
        self._compute = compute
        self._count = lanes
        self._now, self.most, self.is_closed = 0, 0, False
        self._lock = threading.Lock()

    @property
    def streams(self) -> int:
        return self._count

    @property
    def lanes(self) -> Sequence[Lane]:
        return [self.infer] * self._count if self._count > 1 else super().lanes

    def infer(self, feed: Arrays) -> Arrays:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return self._compute(feed)
        finally:
            with self._lock:
                self._now -= 1

    def close(self) -> None:
        assert self._now == 0, "closed under a call"
        self.is_closed = True


def engine_of(tiny: Any, backend: Backend) -> Engine:
    return Engine(Path("engine"), {"": tiny.manifest("onnx")}, Preprocessing(), lambda _: backend)


def doubled(feed: Arrays) -> Arrays:
    return {"logits": 2 * feed["x"].sum(axis=(1, 2))}


class Gate:
    """A computation that begins at once and ends when it is let go."""

    def __init__(self) -> None:
        self._open, self._begun = threading.Event(), threading.Semaphore(0)

    def __call__(self, feed: Arrays) -> Arrays:
        self._begun.release()
        assert self._open.wait(WAIT_S)
        return doubled(feed)

    def await_calls(self, count: int) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=WAIT_S)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("streams", [2, "auto"])
def test_every_way_gives_what_a_serial_call_gives(engine_folder: Path, tiny: Any, streams: Streams) -> None:
    feeds = [tiny.feed(["x"], 1 + seed % 4, seed) for seed in range(40)]
    with load_engine(engine_folder) as serial, load_engine(engine_folder, streams=streams) as engine:
        expected = [serial.infer(feed)["logits"] for feed in feeds]
        assert serial.streams == 1
        assert engine.self_test().passed

        async def gathered() -> list[Any]:
            return await asyncio.gather(*map(engine.infer_async, feeds))

        with ThreadPoolExecutor(8) as pool:
            ways = {
                "threads": list(pool.map(engine.infer, feeds)),
                "futures": [future.result(WAIT_S) for future in map(engine.submit, feeds)],
                "iterator": list(engine.infer_many(feeds)),
                "event loop": asyncio.run(gathered()),
            }
        for way, results in ways.items():
            for result, logits in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result["logits"], logits, err_msg=way)


def test_threads_compute_at_the_same_time(tiny: Any) -> None:
    together = threading.Barrier(2)  # no call ends before two have begun

    def compute(feed: Arrays) -> Arrays:
        together.wait(WAIT_S)
        return doubled(feed)

    backend = Counting(compute, lanes=2)
    with engine_of(tiny, backend) as engine, ThreadPoolExecutor(8) as pool:
        list(pool.map(engine.infer, [tiny.feed(["x"], 1)] * 16))
    assert backend.most == 2


def test_a_backend_without_lanes_is_called_by_one_at_a_time(tiny: Any) -> None:
    backend = Counting(doubled)
    feeds = [tiny.feed(["x"], 1, seed) for seed in range(20)]
    with engine_of(tiny, backend) as engine, ThreadPoolExecutor(8) as pool:
        results = [*pool.map(engine.infer, feeds), *engine.infer_many(feeds)]
    assert backend.most == 1
    for result, feed in zip(results, feeds * 2, strict=True):
        np.testing.assert_array_equal(result["logits"], doubled(feed)["logits"])


def test_an_error_reaches_its_own_future_only(engine_folder: Path, tiny: Any) -> None:
    good, bad = tiny.feed(["x"], 2), {"x": np.zeros((1, 5, 3), np.float32)}
    with load_engine(engine_folder, streams=2) as engine:
        futures = [engine.submit(feed) for feed in (good, bad, good, {}, good)]
        errors = [future.exception(WAIT_S) for future in futures]
        assert [type(error) for error in errors] == [
            type(None), EngineInputError, type(None), EngineInputError, type(None)
        ]  # fmt: skip
        with pytest.raises(EngineInputError, match="must be 4, got 3"):
            asyncio.run(engine.infer_async(bad))
        results = engine.infer_many([good, bad, good])
        assert next(results)["logits"].shape == (2, 3)
        with pytest.raises(EngineInputError, match="must be 4, got 3"):
            next(results)


def test_a_callback_that_fails_harms_no_one(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(future: Future[Any]) -> None:
        raise ValueError("the app's own mistake")

    gate = Gate()
    with engine_of(tiny, Counting(gate)) as engine:
        future = engine.submit(tiny.feed(["x"], 1))
        future.add_done_callback(fail)
        gate.open()
        assert future.result(WAIT_S)["logits"].shape == (1,)
        assert engine.submit(tiny.feed(["x"], 1)).result(WAIT_S)
    assert "the app's own mistake" in caplog.text


def test_what_waits_can_be_cancelled_and_what_runs_cannot(tiny: Any) -> None:
    gate = Gate()
    with engine_of(tiny, Counting(gate)) as engine:
        running, waiting, last = (engine.submit(tiny.feed(["x"], 1)) for _ in range(3))
        gate.await_calls(1)
        assert not running.cancel()
        assert waiting.cancel()
        gate.open()
        assert running.result(WAIT_S)
        assert last.result(WAIT_S)
        with pytest.raises(CancelledError):
            waiting.result(WAIT_S)


def test_a_cancelled_task_gives_up_its_turn(tiny: Any) -> None:
    gate = Gate()
    feeds = [tiny.feed(["x"], 1, seed) for seed in range(3)]

    async def cancel_the_second(engine: Engine) -> list[Any]:
        tasks = [asyncio.create_task(engine.infer_async(feed)) for feed in feeds]
        await asyncio.sleep(0)  # all of them have submitted
        await asyncio.to_thread(gate.await_calls, 1)
        tasks[1].cancel()
        gate.open()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with engine_of(tiny, Counting(gate)) as engine:
        first, second, third = asyncio.run(cancel_the_second(engine))
    assert isinstance(second, asyncio.CancelledError)
    for result, feed in ((first, feeds[0]), (third, feeds[2])):
        np.testing.assert_array_equal(result["logits"], doubled(feed)["logits"])


def test_closing_waits_for_what_runs_and_refuses_what_waits(tiny: Any) -> None:
    gate = Gate()
    backend = Counting(gate, lanes=2)
    engine = engine_of(tiny, backend)
    futures = [engine.submit(tiny.feed(["x"], 1)) for _ in range(10)]
    gate.await_calls(2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not repr(engine).endswith("closed>"):
        closing.join(0.001)
    assert not backend.is_closed
    gate.open()
    refused = [future.exception(WAIT_S) for future in futures[2:]]
    closing.join(WAIT_S)
    engine.close()
    assert backend.is_closed
    assert all(future.result(WAIT_S) for future in futures[:2])
    assert [str(error) for error in refused] == ["engine engine is closed; load it again"] * 8
    for call in (engine.submit, engine.infer, lambda feed: next(engine.infer_many([feed]))):
        with pytest.raises(EngineError, match="engine engine is closed; load it again"):
            call(tiny.feed(["x"], 1))
    with pytest.raises(EngineError, match="is closed"):
        asyncio.run(engine.infer_async(tiny.feed(["x"], 1)))


def test_many_batches_are_read_only_a_few_ahead(tiny: Any) -> None:
    read = itertools.count()

    def feeds() -> Iterator[Arrays]:
        for number in read:
            yield tiny.feed(["x"], 1, number)

    with engine_of(tiny, Counting(doubled, lanes=2)) as engine:
        results = engine.infer_many(feeds())
        for number in range(5):
            expected = doubled(tiny.feed(["x"], 1, number))
            np.testing.assert_array_equal(next(results)["logits"], expected["logits"])
        assert next(read) <= 5 + 4
        results.close()
        assert list(engine.infer_many([])) == []


def test_a_pickled_engine_keeps_its_streams(engine_folder: Path) -> None:
    with (
        load_engine(engine_folder, streams=2) as engine,
        pickle.loads(pickle.dumps(engine)) as again,  # noqa: S301
    ):
        assert again.streams == engine.streams


@pytest.mark.parametrize("streams", [0, -1, 1.5, True, None, "many"])
def test_streams_are_a_positive_number(engine_folder: Path, streams: Any) -> None:
    with pytest.raises(ConfigError, match=r"streams=.* must be a positive whole number, or 'auto'"):
        load_engine(engine_folder, streams=streams)


def test_every_stream_needs_a_thread(engine_folder: Path) -> None:
    with pytest.raises(ConfigError, match="streams=3 needs at least as many threads, and there are 2; give threads=3"):
        load_engine(engine_folder, streams=3, threads=2)
    with load_engine(engine_folder, streams=2, threads=2) as engine:
        assert engine.streams <= 2  # OpenVINO has no more than the machine has CPUs
        assert engine.self_test().passed


def test_fewer_streams_than_asked_for_are_said(
    engine_folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kdcmae.runtime.openvino.OpenVINOBackend.streams", 1)
    monkeypatch.setattr("kdcmae.runtime.onnx.ONNXBackend.streams", 1)
    with caplog.at_level(logging.WARNING, "kdcmae.runtime"), load_engine(engine_folder, streams=2) as engine:
        assert engine.streams == 1
    assert f"{engine_folder} runs 1 calls at the same time here, not 2" in caplog.text


def test_a_variant_has_streams_too(tiny: Any) -> None:
    folder = tiny.make("onnx", ["audio"])
    manifest = Manifest.read(folder)
    backends = [Counting(lambda feed: {"logits": feed["audio"].sum(axis=(1, 2))}, lanes=2) for _ in range(2)]
    other = tiny.manifest("onnx", ["image"])
    parts = iter(backends)
    engine = Engine(folder, {"": other, "audio": manifest}, Preprocessing(), lambda _: next(parts))
    with engine:
        feeds = [tiny.feed(["audio"], 1, seed) for seed in range(10)]
        for result, feed in zip(engine.infer_many(feeds), feeds, strict=True):
            np.testing.assert_array_equal(result["logits"], feed["audio"].sum(axis=(1, 2)))
    assert all(backend.is_closed for backend in backends)
