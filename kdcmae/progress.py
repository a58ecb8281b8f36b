"""Progress of a long command: a record per step that begins, advances or ends, handed to one callback.

Whoever wants to know how far a command is reads these records: the terminal prints them, the memory benchmark gets
them from another process as JSON lines, and a program that compiles a model passes a callback of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

__all__ = ["Parts", "Progress", "Report", "Step", "Steps", "counted", "observed", "write_lines"]


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How far a step is that works through parts.

    Args:
        done: number of parts that are done.
        total: number of all parts.
        left_s: estimate of the seconds that the others take.
    """

    done: int
    total: int
    left_s: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step of a long command at the moment it begins, advances or ends.

    Args:
        name: what is being done, such as ``"export to ONNX"``.
        state: ``running`` when the step begins or advances; ``done`` or ``failed`` when it ends.
        index: number of the step, from 1, in the order in which steps begin. A step within another has its own.
        count: how many steps the command has; None where unknown.
        seconds: what the step took so far.
        remaining_s: estimate of the seconds until the command ends; None where unknown.
        parts: how far the step is; None where it has no parts, begins or ends.
    """

    name: str
    state: Literal["running", "done", "failed"]
    index: int
    count: int | None = None
    seconds: float = 0.0
    remaining_s: float | None = None
    parts: Parts | None = None


Report = Callable[[Progress], None]

Step = Callable[[str], AbstractContextManager[None]]
"""What a function needs that only names its steps: ``with step("export"): ...``."""

_observers: list[Report] = []
_advance: ContextVar[Callable[[Parts], object]] = ContextVar("_advance", default=lambda parts: None)


def counted(items: Sequence[T]) -> Iterator[T]:
    """The items that a step works through; the innermost running step tells how many are done."""
    start = time.perf_counter()
    for done, item in enumerate(items):
        if done:
            left_s = (time.perf_counter() - start) / done * (len(items) - done)
            _advance.get()(Parts(done=done, total=len(items), left_s=left_s))
        yield item


class Steps:
    """Names and times the steps of one command.

    Args:
        report: gets a record when a step begins, advances or ends.
        expected: seconds that each step took in an earlier run of the same command, by name. They give the number of
            steps and the seconds that remain.

    Attributes:
        seconds: what each step took that has ended, by name.
    """

    def __init__(self, report: Report = lambda progress: None, *, expected: Mapping[str, float] | None = None) -> None:
        self.report = report
        self.seconds: dict[str, float] = {}
        self._expected = dict(expected or {})
        self._begun = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one step.

        Args:
            name: what is being done, such as ``"export to ONNX"``.
        """
        self._begun += 1
        tell = partial(self._tell, name, self._begun, time.perf_counter())
        tell("running")
        outer = _advance.set(partial(tell, "running"))
        try:
            yield
        except BaseException:
            tell("failed")
            raise
        finally:
            _advance.reset(outer)
        self.seconds[name] = tell("done")

    def _tell(
        self,
        name: str,
        index: int,
        start: float,
        state: Literal["running", "done", "failed"],
        parts: Parts | None = None,
    ) -> float:
        """Report a step, and return the seconds that it took so far."""
        seconds = time.perf_counter() - start
        known = name in self._expected and index <= len(self._expected)
        ended = {*self.seconds, *([name] if state == "done" else [])}
        progress = Progress(
            name=name,
            state=state,
            index=index,
            count=len(self._expected) if known else None,
            seconds=seconds,
            remaining_s=sum(s for step, s in self._expected.items() if step not in ended) if known else None,
            parts=parts,
        )
        for report in (self.report, *_observers):
            report(progress)
        return seconds


@contextmanager
def observed(report: Report) -> Iterator[None]:
    """Hand every record of this process to a second callback too, whichever command it runs."""
    _observers.append(report)
    try:
        yield
    finally:
        _observers.remove(report)


def write_lines(path: Path) -> Report:
    """A callback that appends each record to a file, as one line of JSON, for another process to read.

    Args:
        path: the file; made where it is not there.
    """

    def report(progress: Progress) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(progress)) + "\n")

    return report
