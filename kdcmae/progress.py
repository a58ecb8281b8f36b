"""Progress of a long command: a record per step that begins or ends, handed to one callback.

Whoever wants to know how far a command is reads these records: the terminal prints them, the memory benchmark gets
them from another process as JSON lines, and a program that compiles a model passes a callback of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Progress", "Report", "Step", "Steps", "observed", "write_lines"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step of a long command at the moment it begins or ends.

    Args:
        name: what is being done, such as ``"export to ONNX"``.
        state: ``running`` when the step begins; ``done`` or ``failed`` when it ends.
        index: number of the step, from 1, in the order in which steps begin. A step within another has its own.
        count: how many steps the command has; None where unknown.
        seconds: what the step took so far.
        remaining_s: estimate of the seconds until the command ends; None where unknown.
    """

    name: str
    state: Literal["running", "done", "failed"]
    index: int
    count: int | None = None
    seconds: float = 0.0
    remaining_s: float | None = None


Report = Callable[[Progress], None]

Step = Callable[[str], AbstractContextManager[None]]
"""What a function needs that only names its steps: ``with step("export"): ...``."""

_observers: list[Report] = []


class Steps:
    """Names and times the steps of one command.

    Args:
        report: gets a record when a step begins and when it ends.
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
        index, start = self._begun, time.perf_counter()
        self._tell(name, "running", index, 0.0)
        try:
            yield
        except BaseException:
            self._tell(name, "failed", index, time.perf_counter() - start)
            raise
        self.seconds[name] = time.perf_counter() - start
        self._tell(name, "done", index, self.seconds[name])

    def _tell(self, name: str, state: Literal["running", "done", "failed"], index: int, seconds: float) -> None:
        known = name in self._expected and index <= len(self._expected)
        left = [expected for step, expected in self._expected.items() if step not in self.seconds]
        progress = Progress(
            name=name,
            state=state,
            index=index,
            count=len(self._expected) if known else None,
            seconds=seconds,
            remaining_s=sum(left) if known else None,
        )
        for report in (self.report, *_observers):
            report(progress)


@contextmanager
def observed(report: Report) -> Iterator[None]:
    """Hand every record of this process to a second callback too, whichever command it runs.

    Args:
        report: gets the records.
    """
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
