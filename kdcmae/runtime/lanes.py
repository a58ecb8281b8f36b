"""Callers of a backend, as many at a time as it has lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kdcmae.errors import EngineError
from kdcmae.runtime.backend import Backend, Lane

__all__ = ["Lanes"]


class Lanes:
    """The lanes of a loaded backend, each lent to one caller at a time.

    Args:
        backend: closed by :meth:`close`.
        closed: message of the error for a caller who comes when it is closed.
    """

    def __init__(self, backend: Backend, *, closed: str) -> None:
        self.backend = backend
        self._free = list(backend.lanes)
        self.count = len(self._free)
        self._closed = closed
        self._is_closed = False
        self._changed = threading.Condition()

    @contextmanager
    def lend(self) -> Iterator[Lane]:
        """A lane for the length of a ``with`` block, as soon as one is free.

        Raises:
            EngineError: the backend is closed, or was closed while the caller waited.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._is_closed)
            if self._is_closed:
                raise EngineError(self._closed)
            lane = self._free.pop()
        try:
            yield lane
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all() if self._is_closed else self._changed.notify()

    def close(self) -> None:
        """Let no more callers in, wait for those who are computing, and close the backend; a second call only waits."""
        with self._changed:
            first, self._is_closed = not self._is_closed, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self.count)
            if first:
                self.backend.close()
