"""Known work that takes turns with the subjects and tells the state of the machine.

A machine changes under a benchmark without a word: a virtual CPU is moved to a core further away from the other, a
neighbour fills the memory bus, the clock drops. Products of matrices and sums shared out between all the threads show
it, whatever the subjects do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise

from kdcmae.bench.run.subjects import Arrays, Facts, Subject
from kdcmae.bench.run.worker import Session, Worker

__all__ = ["STEADY", "Yardstick", "YardstickSubject", "apart", "open_yardstick", "steady_rounds"]

Yardstick = Callable[[], float]
"""What the known work takes now, in ms."""

STEADY = 0.06  # readings further apart than this tell of two states

_READING_S = 0.15
_TIMEOUT_S = 300.0
_SIDE = 512
_SUMS, _SUMMED = 100, 1 << 16  # small enough that most of their time is two threads waiting for each other


class YardstickSubject(Subject):
    """A matrix product and many short sums, each on all the threads."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._product = torch.zeros(_SIDE, _SIDE)
        self._sum = torch.zeros(_SUMMED)
        self._multiply = torch.mm
        self.facts = Facts(kind="yardstick", computes_in="fp32", inputs=(), batch=None)

    def run(self, inputs: Arrays) -> Arrays:
        """The work once."""
        self._multiply(self._product, self._product)
        for _ in range(_SUMS):
            self._sum.add_(1.0)
        return {}


@contextmanager
def open_yardstick(threads: int) -> Iterator[Yardstick]:
    """A yardstick on the CPUs that subjects with so many threads use, in a process that ends with the context."""
    with closing(Worker("", threads=threads, timeout_s=_TIMEOUT_S, open_subject=_open_subject)) as worker:
        worker.ask(Session.load)
        worker.ask(Session.first_inference, 1, 0)
        worker.ask(Session.window, _READING_S)  # warms up
        yield lambda: statistics.median(worker.ask(Session.window, _READING_S))


def _open_subject(source: str, threads: int) -> YardstickSubject:
    """In the worker."""
    return YardstickSubject(threads)


def apart(one_ms: float, other_ms: float) -> bool:
    """Whether two readings tell of two states of the machine."""
    return max(one_ms, other_ms) > (1 + STEADY) * min(one_ms, other_ms)


def steady_rounds(readings_ms: Sequence[float], *, enough: int) -> list[int]:
    """The rounds in which the machine was in one state: the fastest with enough rounds, else that with the most.

    Args:
        readings_ms: before the first round, and after each.
        enough: rounds.

    Returns:
        Numbers of the rounds with a reading of that state on both sides.
    """
    most: list[int] = []
    for fastest in sorted(readings_ms):
        in_state = [reading >= fastest and not apart(reading, fastest) for reading in readings_ms]
        rounds = [number for number, both in enumerate(pairwise(in_state)) if all(both)]
        if len(rounds) >= enough:
            return rounds
        most = max(most, rounds, key=len)
    return most
