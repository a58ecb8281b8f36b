"""How calls are timed: on the CPU for real, on a GPU against a record of what was enqueued."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from kdcmae.bench.kernels.schema import Work
from kdcmae.bench.machine.ceilings import device_ceilings
from kdcmae.bench.machine.clock import GRAPH_COLD, GRAPH_WARM, PLAIN_COLD, PLAIN_WARM, CpuClock, CudaClock, clock_for

CALL_US, EVICT_US = 50.0, 80.0


class FakeCuda:
    """Stands in for ``torch.cuda``: keeps a log, and a time that only work moves on."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now_us = 0.0
        self.capturing: list[float] | None = None
        self.pools: set[int] = set()

    def spend(self, what: str, time_us: float) -> None:
        if self.capturing is not None:
            self.capturing.append(time_us)
            return
        self.log.append(what)
        self.now_us += time_us

    def Event(self, enable_timing: bool) -> SimpleNamespace:  # noqa: N802 (PyTorch's name)
        assert enable_timing
        event = SimpleNamespace(at_us=None)

        def record() -> None:
            self.log.append("event")
            event.at_us = self.now_us

        event.record = record
        event.elapsed_time = lambda end: (end.at_us - event.at_us) / 1e3
        return event

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        graph = SimpleNamespace(times_us=[])
        graph.replay = lambda: self.spend("replay", sum(graph.times_us))
        return graph

    @contextmanager
    def graph(self, graph, pool, stream):
        assert stream is self.the_stream
        self.pools.add(pool)
        self.capturing = graph.times_us
        yield
        self.capturing = None

    def Stream(self, device) -> SimpleNamespace:  # noqa: N802
        self.the_stream = SimpleNamespace(synchronize=lambda: self.log.append("synchronize"))
        return self.the_stream

    @contextmanager
    def stream(self, stream):
        assert stream is self.the_stream
        yield

    def graph_pool_handle(self) -> int:
        return 7

    def get_device_properties(self, device) -> SimpleNamespace:
        return SimpleNamespace(L2_cache_size=1 << 20)


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    fake = FakeCuda()
    for name in ("Event", "CUDAGraph", "graph", "Stream", "stream", "graph_pool_handle", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    scratch = SimpleNamespace(zero_=lambda: fake.spend("evict", EVICT_US))
    monkeypatch.setattr(torch, "empty", lambda size, **options: scratch)
    return fake


def window_of(cuda: FakeCuda, condition, seconds: float = 0) -> list[float]:
    """Times of one window, with only that window in the log."""
    window = CudaClock(torch.device("cuda")).prepare(lambda: cuda.spend("call", CALL_US), condition)
    cuda.log.clear()
    return window(seconds)


def test_a_warm_call_is_between_its_own_events(cuda):
    assert window_of(cuda, PLAIN_WARM) == pytest.approx([CALL_US] * 3)
    assert cuda.log == ["call", *["event", "call", "event"] * 3, "synchronize"]


def test_the_cache_is_emptied_before_a_cold_call_and_not_timed(cuda):
    assert window_of(cuda, PLAIN_COLD) == pytest.approx([CALL_US] * 3)
    assert cuda.log == ["call", *["evict", "event", "call", "event"] * 3, "synchronize"]


def test_a_warm_graph_holds_many_calls(cuda):
    before_us = cuda.now_us
    assert window_of(cuda, GRAPH_WARM) == pytest.approx([CALL_US] * 3)
    assert cuda.log == ["replay", *["event", "replay", "event"] * 3, "synchronize"]
    assert cuda.now_us - before_us > 4 * 20 * CALL_US


def test_graphs_share_their_memory(cuda):
    clock = CudaClock(torch.device("cuda"))
    for condition in (GRAPH_WARM, GRAPH_COLD):
        clock.prepare(lambda: cuda.spend("call", CALL_US), condition)
    assert cuda.pools == {7}


def test_a_cold_graph_holds_one(cuda):
    assert window_of(cuda, GRAPH_COLD) == pytest.approx([CALL_US] * 3)
    assert cuda.log == ["replay", *["evict", "event", "replay", "event"] * 3, "synchronize"]


@pytest.mark.parametrize(
    ("condition", "repeat_us"), [(PLAIN_WARM, CALL_US), (PLAIN_COLD, CALL_US + EVICT_US), (GRAPH_WARM, 20 * CALL_US)]
)
def test_a_window_lasts_about_as_long_as_asked(cuda, condition, repeat_us):
    seconds = 0.05
    times_us = window_of(cuda, condition, seconds)
    assert len(times_us) == pytest.approx(1e6 * seconds / repeat_us, abs=1)


def test_a_window_is_bounded(cuda):
    assert len(window_of(cuda, PLAIN_WARM, 3600)) == 2000


def test_a_call_of_nothing_gives_the_timers_floor(cuda):
    assert CudaClock(torch.device("cuda")).prepare(lambda: None, PLAIN_WARM)(0.001) == [0.0] * 1000


def test_the_cpu_has_a_clock_of_its_own():
    clock = clock_for(torch.device("cpu"))
    assert isinstance(clock, CpuClock)
    assert clock.conditions == (PLAIN_WARM,)
    calls = []
    times_us = clock.prepare(lambda: calls.append(None), PLAIN_WARM)(0.001)
    assert len(calls) > len(times_us) > 0
    assert all(0 <= time_us < 1e6 for time_us in times_us)


def test_ceilings_and_the_floor_they_make():
    ceilings = device_ceilings(
        CpuClock(), torch.device("cpu"), torch.float32, copy_bytes=1 << 16, matmul_side=32, seconds=0.001
    )
    assert ceilings.matmul_dtype == "float32"
    assert ceilings.copy_bytes_per_s > 0
    assert ceilings.matmul_flop_per_s > 0
    assert 0 <= ceilings.timer_floor_us < 1e5
    moving = Work(bytes=int(ceilings.copy_bytes_per_s), flop=1)
    multiplying = Work(bytes=1, flop=int(2 * ceilings.matmul_flop_per_s))
    for work, expected_us in ((moving, 1e6), (multiplying, 2e6), (moving + multiplying, 2e6)):
        assert ceilings.floor_us(work.bytes, work.flop) == pytest.approx(expected_us, rel=1e-3)
