"""Engines in parts: an encoder per modality and the blocks that join them, each an engine file of its own.

An encoder runs only if its input differs from those of its last runs, so that a modality that did not change costs no
encoder. Inputs are compared bit by bit: what is reused is what running the encoder would give again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend, Lane, Streams
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.execution import Execution, summed
from kdcmae.runtime.manifest import Manifest

__all__ = ["PartsBackend", "in_turn", "open_backend"]

_KEPT, _MOST_BYTES = 4, 64_000_000  # encodings of one modality; the last one is kept whatever its size

Key = tuple[tuple[tuple[int, ...], bytes], ...]


def open_backend(
    kind: type[Backend],
    folder: Path,
    manifest: Manifest,
    *,
    device: str | None,
    threads: int | None,
    streams: Streams,
) -> Backend:
    """Load an engine, in one piece or in parts.

    Args:
        kind: backend of the engine's target.
        folder: the engine folder, its files already verified.
        manifest: of that folder.
        device, threads, streams: as :meth:`~kdcmae.runtime.backend.Backend.load` takes them.

    Raises:
        EngineError: a part is not what the manifest says.
        KdcmaeError: as the backend raises.
    """

    def load(part: Manifest) -> Backend:
        return kind.load(folder, part, device=device, threads=threads, streams=streams)

    return PartsBackend(manifest, load) if manifest.is_in_parts else load(manifest)


def in_turn(parts: Iterable[tuple[Sequence[str], Lane]], feed: Arrays, outputs: Sequence[str]) -> Arrays:
    """Run parts one after the other; each takes inputs of the engine, or outputs of parts before it.

    Args:
        parts: the inputs of each, by name, and what runs it.
        feed: inputs of the engine.
        outputs: names of the outputs to return.
    """
    values = dict(feed)
    for names, run in parts:
        values.update(run({name: values[name] for name in names}))
    return {name: values[name] for name in outputs}


class PartsBackend(Backend):
    """An engine in parts, each loaded by the backend of its target.

    Args:
        manifest: of the engine.
        load: loads a part.

    Raises:
        EngineError: a part is not what the manifest says.
    """

    def __init__(self, manifest: Manifest, load: Callable[[Manifest], Backend]) -> None:
        parts = manifest.parts()
        self._outputs = [spec.name for spec in manifest.outputs]
        self._inputs = {name: part.inputs for name, part in parts.items()}
        self._names = {name: tuple(spec.name for spec in specs) for name, specs in self._inputs.items()}
        self._backends: dict[str, Backend] = {}
        try:
            for name, part in parts.items():
                self._backends[name] = load(part)
        except BaseException:
            self.close()
            raise
        inputs = {spec.name for spec in manifest.inputs}
        self._encodings = {name: _Encodings() for name, names in self._names.items() if inputs.issuperset(names)}

    @property
    def streams(self) -> int:
        """Number of calls that run at the same time."""
        return min(backend.streams for backend in self._backends.values())

    @property
    def lanes(self) -> Sequence[Lane]:
        """Functions that may run at the same time as each other; they share what encoders gave."""
        lanes = zip(*(backend.lanes for backend in self._backends.values()), strict=False)
        return tuple(partial(self._run, dict(zip(self._backends, lane, strict=True))) for lane in lanes)

    @property
    def chosen_device(self) -> str:
        """The device that executes, if the library was left to choose it and says which; else empty."""
        return next(reversed(self._backends.values())).chosen_device

    @property
    def encoder_runs(self) -> Mapping[str, int]:
        """How often each encoder ran."""
        return {name: encodings.runs for name, encodings in self._encodings.items()}

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch; an encoder that has just had the same input does not run again."""
        return self._run({name: backend.infer for name, backend in self._backends.items()}, feed)

    def execution(self) -> Execution:
        """Precisions that the layers of all parts execute in."""
        return summed([backend.execution() for backend in self._backends.values()])

    def profile(self, folder: Path, feed: Arrays) -> Execution:
        """The same, measured with a run of every part where the library needs one; what encoders give is made up."""
        batch = len(next(iter(feed.values())))
        inputs = {name: {**example_inputs(specs, batch), **feed} for name, specs in self._inputs.items()}
        return summed(
            [
                backend.profile(folder, {spec.name: inputs[name][spec.name] for spec in self._inputs[name]})
                for name, backend in self._backends.items()
            ]
        )

    def close(self) -> None:
        """Release the parts."""
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()
        self._encodings = {}

    def _run(self, lanes: Mapping[str, Lane], feed: Arrays) -> Arrays:
        runs = dict(lanes)
        for name, encodings in self._encodings.items():
            runs[name] = partial(encodings.of, lanes[name], reuse=self.reuses)
        return in_turn([(self._names[name], run) for name, run in runs.items()], feed, self._outputs)


class _Encodings:
    """What an encoder gave for the inputs that it had last. Threads may share it.

    Attributes:
        runs: how often the encoder ran.
    """

    def __init__(self) -> None:
        self._known: deque[tuple[Key, dict[str, NDArray[Any]]]] = deque()  # the last used first
        self._lock = threading.Lock()
        self.runs = 0

    def of(self, run: Lane, feed: Arrays, *, reuse: bool) -> Arrays:
        """The encoding of an input.

        Args:
            run: the encoder.
            feed: the input.
            reuse: take it from an earlier run where there was one with the same input.
        """
        # Copies, because a caller may write new content into the same array. Comparing bytes ends at a difference.
        key = tuple((array.shape, array.tobytes()) for array in feed.values())
        if reuse and (encoding := self._find(key)) is not None:
            return encoding
        # Copied as well: results may be views of memory that the next call overwrites.
        encoding = {name: np.array(output) for name, output in run(feed).items()}
        with self._lock:
            self.runs += 1
            self._known.appendleft((key, encoding))
            while len(self._known) > _KEPT or (len(self._known) > 1 and self._bytes() > _MOST_BYTES):
                self._known.pop()
        return encoding

    def _find(self, key: Key) -> dict[str, NDArray[Any]] | None:
        with self._lock:
            for index, (known, encoding) in enumerate(self._known):
                if known == key:
                    del self._known[index]
                    self._known.appendleft((known, encoding))
                    return encoding
        return None

    def _bytes(self) -> int:
        return sum(
            sum(len(content) for _, content in key) + sum(array.nbytes for array in encoding.values())
            for key, encoding in self._known
        )
