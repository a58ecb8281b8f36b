"""One process per subject, so that load time, first inference and peak memory are the subject's own.

The parent asks questions, which are methods of :class:`Session`, and the worker answers. A worker that crashes or hangs
takes nothing else down. Each is pinned to the CPUs that it may use.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdcmae import host
from kdcmae.bench.machine.state import gpu_memory_bytes, pinned
from kdcmae.bench.run.inputs import made_inputs
from kdcmae.bench.run.subjects import Arrays, Facts, Subject
from kdcmae.cli.ending import TRACEBACK_VARIABLE, Run
from kdcmae.data.parallel import interrupts_held
from kdcmae.errors import DeviceError, EngineError, KdcmaeError, cause
from kdcmae.runtime import SelfTest

__all__ = ["FirstInference", "Loaded", "Memory", "OpenSubject", "Session", "Worker"]

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

OpenSubject = Callable[[str, int], Subject]  # source, threads

_MISSING_HERE = 3  # exit code of errors that say this machine lacks something
_EXIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Facts of a loaded subject, and how long loading took, the import of its library included."""

    facts: Facts
    load_ms: float


@dataclass(frozen=True, kw_only=True)
class FirstInference:
    """Duration and outputs of the first call after loading."""

    outputs: Arrays
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Largest resident memory of the process so far; memory in use on the GPU, by all processes."""

    peak_rss_bytes: int | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Refusal:
    message: str
    missing_here: bool


class Session:
    """The subject in its process, and the questions that the parent can ask about it."""

    def __init__(self, source: str, threads: int, open_subject: OpenSubject) -> None:
        self._open = lambda: open_subject(source, threads)
        self._subject: Subject
        self._inputs: Arrays

    def load(self) -> Loaded:
        """Load the subject."""
        start = time.perf_counter()
        self._subject = self._open()
        return Loaded(facts=self._subject.facts, load_ms=(time.perf_counter() - start) * 1e3)

    def first_inference(self, batch: int, seed: int) -> FirstInference:
        """Run it on seeded inputs, which later windows use too."""
        self._inputs = made_inputs(self._subject.facts, batch, seed=seed)
        start = time.perf_counter()
        outputs = self._subject.run(self._inputs)
        return FirstInference(outputs=outputs, latency_ms=(time.perf_counter() - start) * 1e3)

    def self_test(self) -> SelfTest | None:
        """Run its own self-test."""
        return self._subject.self_test()

    def window(self, seconds: float) -> list[float]:
        """Time it for one window on the inputs of the first inference; latencies in ms."""
        return self._subject.window(self._inputs, seconds)

    def answers(self, data: Path) -> NDArray[np.float32]:
        """Its first output for every clip of a file that :func:`kdcmae.bench.run.clips.write_clips` wrote."""
        from kdcmae.bench.run.clips import answers  # after the subject was measured: it brings a video library along

        return answers(self._subject, data)

    def stages(self, clip: Path, seconds: float) -> Mapping[str, list[float]]:
        """From a video file to the outputs, over and over for about so many seconds; ms per stage."""
        from kdcmae.bench.run.clips import stages

        return stages(self._subject, clip, seconds)

    def memory(self) -> Memory:
        """Memory that it has needed so far."""
        return Memory(peak_rss_bytes=host.peak_rss_bytes(), gpu_bytes=gpu_memory_bytes())


class Worker:
    """The parent's side: starts the process and asks it.

    Args:
        source: what :func:`kdcmae.bench.run.sources.open_subject` opens.
        threads: CPU threads of the subject.
        timeout_s: how long one answer may take before the worker counts as hung.
        open_subject: opens the source; importable by name, because another process calls it.
        cpus: the process is pinned to these; as many as there are threads, if there are, where None.
    """

    def __init__(
        self,
        source: str,
        *,
        threads: int,
        timeout_s: float,
        open_subject: OpenSubject,
        cpus: tuple[int, ...] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._timeout_s = timeout_s
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, source, threads, open_subject),
            name=f"kdcmae-bench {source}",
            daemon=True,
        )
        with pinned(cpus or host.cpu_numbers()[:threads], threads), interrupts_held():
            self._process.start()
        theirs.close()  # the worker's copy is now the only one: when it ends, we read the end of the stream

    def ask(
        self, question: Callable[Concatenate[Session, Asked], Answer], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """One answer of the worker.

        Args:
            question: a method of :class:`Session`.
            args, kwargs: of that method.

        Raises:
            DeviceError: the subject needs what this machine lacks.
            EngineError: the subject refused, crashed or hung.
        """
        try:
            self._connection.send((question, args, kwargs))
            if not self._connection.poll(self._timeout_s):
                self._kill()
                raise EngineError(f"gave no answer within {self._timeout_s:g} s (--timeout) and was stopped")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(_EXIT_TIMEOUT_S)
            raise EngineError(f"crashed: {_explain_exit(self._process.exitcode)}") from error
        if isinstance(answer, _Refusal):
            raise (DeviceError if answer.missing_here else EngineError)(answer.message)
        return answer

    def close(self) -> None:
        """End the process; closing twice is harmless."""
        self._connection.close()  # the worker reads the end of the stream and returns
        self._process.join(_EXIT_TIMEOUT_S)
        self._kill()

    def _kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, source: str, threads: int, open_subject: OpenSubject) -> None:
    """Answer questions until the parent closes the connection or is gone."""
    os.dup2(sys.stderr.fileno(), 1)  # what libraries print must not mix with the report on stdout
    session = Session(source, threads, open_subject)
    with suppress(EOFError, ConnectionError):
        while True:
            question, args, kwargs = connection.recv()
            connection.send(_answer(partial(question, session, *args, **kwargs)))


def _answer(ask: Callable[[], Any]) -> Any:
    """What the session says, or why it refuses. Where tracebacks are asked for, anything unforeseen ends the worker."""
    try:
        return ask()
    except KdcmaeError as error:
        return _Refusal(message=str(error), missing_here=error.exit_code == _MISSING_HERE)
    except OSError as error:
        return _Refusal(message=str(error), missing_here=False)
    except Exception as error:
        if Run().traceback:
            raise
        where = f"{TRACEBACK_VARIABLE}=1 shows where"
        return _Refusal(message=f"{type(error).__name__}: {cause(error)} ({where})", missing_here=False)


def _explain_exit(code: int | None) -> str:
    if code is None:
        return "it closed its connection but does not end"
    if code >= 0:
        return f"its process ended with exit code {code}; what it printed is above"
    name = signal.Signals(-code).name
    hint = "; most often the system was out of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
