"""How long calls take on a device: plain or replayed from a CUDA graph, with a warm or a cold cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from kdcmae.timing import time_window

__all__ = [
    "GRAPH_COLD",
    "PLAIN_COLD",
    "PLAIN_WARM",
    "Clock",
    "Condition",
    "CpuClock",
    "CudaClock",
    "Window",
    "clock_for",
]

Call = Callable[[], object]
Window = Callable[[float], list[float]]
"""Times one call over and over for about so many seconds; gives what each took in us."""


@dataclass(frozen=True)
class Condition:
    """How calls are launched, and what the cache holds before each."""

    launch: Literal["plain", "graph"]
    cache: Literal["warm", "cold"]

    def __str__(self) -> str:
        return f"{self.launch}, {self.cache}"


PLAIN_WARM = Condition("plain", "warm")
PLAIN_COLD = Condition("plain", "cold")
GRAPH_WARM = Condition("graph", "warm")
GRAPH_COLD = Condition("graph", "cold")


class Clock(Protocol):
    """Times calls on one kind of device.

    Attributes:
        conditions: what it can set up.
    """

    conditions: tuple[Condition, ...]

    def running(self) -> AbstractContextManager[object]:
        """A context in which everything must run that is timed, and whatever made its inputs."""

    def prepare(self, call: Call, condition: Condition) -> Window:
        """Warm up and set up; the window may be used any number of times."""


def clock_for(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


class CpuClock:
    """Wall time. The CPU's cache is as the calls leave it."""

    conditions: tuple[Condition, ...] = (PLAIN_WARM,)

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def prepare(self, call: Call, condition: Condition) -> Window:
        return lambda seconds: [1e3 * latency_ms for latency_ms in time_window(call, seconds)]


class CudaClock:
    """CUDA events around each call, on a stream of its own, as capturing a graph demands.

    Before a cold call memory of several times the L2 cache's size is written, which also keeps the GPU busy while
    the call is enqueued. Warm graphs hold several calls, so that the gap between replays does not count.
    """

    conditions: tuple[Condition, ...] = (PLAIN_WARM, PLAIN_COLD, GRAPH_WARM, GRAPH_COLD)

    _WARM_UPS = 3
    _REPLAY_US = 1000.0  # aimed at for a warm graph
    _MOST_CALLS = 20  # in a warm graph
    _REPEATS = (3, 2000)  # least and most per window

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        # One pool for all graphs: nobody reads what they compute, so they may overwrite each other's memory.
        self._pool = torch.cuda.graph_pool_handle()
        cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._scratch = torch.empty(max(4 * cache_bytes, 1 << 26), dtype=torch.int8, device=device)
        with self.running():
            self._evict_us = min(self._time(self._evict, _nothing, 10))

    def running(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def prepare(self, call: Call, condition: Condition) -> Window:
        for _ in range(self._WARM_UPS):  # compiles kernels, builds plans, fills the allocator's cache
            call()
        call_us = max(1.0, min(self._time(call, _nothing, self._WARM_UPS)))  # nothing at all may take 0
        calls, run, before = 1, call, _nothing
        if condition.cache == "cold":
            before = self._evict
        elif condition.launch == "graph":
            calls = max(1, min(self._MOST_CALLS, int(self._REPLAY_US / call_us)))
        if condition.launch == "graph":
            run = self._capture(call, calls)
        repeat_us = calls * call_us + (self._evict_us if condition.cache == "cold" else 0)

        def window(seconds: float) -> list[float]:
            least, most = self._REPEATS
            repeats = max(least, min(most, int(1e6 * seconds / repeat_us)))
            return [time_us / calls for time_us in self._time(run, before, repeats)]

        return window

    def _time(self, run: Call, before: Call, repeats: int) -> list[float]:
        run()  # not timed: brings back what another's turn displaced
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for start, end in pairs:
            before()
            start.record()
            run()
            end.record()
        self._stream.synchronize()
        return [1e3 * start.elapsed_time(end) for start, end in pairs]

    def _capture(self, call: Call, calls: int) -> Call:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            for _ in range(calls):
                call()
        return graph.replay

    def _evict(self) -> None:
        self._scratch.zero_()


def _nothing() -> None:
    pass
