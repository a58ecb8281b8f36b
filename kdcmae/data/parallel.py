"""Map a function over many items in several processes, in order and with a bounded queue."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.context import BaseContext
from typing import TypeVar

from kdcmae.errors import DataError

__all__ = ["end_with_parent", "interrupts_held", "loader_context", "map_in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 8  # items per process that are started before their result is asked for


def map_in_processes(function: Callable[[Item], Result], items: Iterable[Item], *, processes: int) -> Iterator[Result]:
    """The results of a function, in the order of the items.

    Args:
        function: of a module, or a partial of one; it is sent to other processes.
        items: taken a few at a time.
        processes: 1 uses this process. With more, a script that calls this guards its entry point with
            ``if __name__ == "__main__"``, as spawned processes require.

    Raises:
        DataError: a process died, as a decoder may on a damaged file.
    """
    if processes == 1:
        yield from map(function, items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    # Spawned, because a process that has threads, of torch or of numpy, cannot be forked safely.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start)
    try:
        remaining = iter(items)
        with interrupts_held():  # the processes start with the first item
            waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, processes * _AHEAD))
        while waiting:
            _, first = waiting[0]
            result = first.result()
            waiting.popleft()
            waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, 1))
            yield result
    except BrokenProcessPool as error:
        suspects = ", ".join(str(item) for item, _ in list(waiting)[:processes])
        raise DataError(f"a process died, killed or crashed by one of: {suspects}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def loader_context(workers: int) -> BaseContext | None:
    """Start method of a PyTorch loader's workers: a fork server without threads, if the system can fork.

    PyTorch's own way forks this process, and a lock that another of its threads, such as an inference engine's, holds
    at that moment stays locked in the worker for ever.

    Args:
        workers: number of workers; 0 gives None, as the loader expects.
    """
    if workers == 0:
        return None
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdcmae.data.loader"])  # PyTorch is imported once, not in every worker
    from multiprocessing import forkserver  # which Windows lacks

    with interrupts_held():
        forkserver.ensure_running()
    return context


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes that ignore Ctrl-C; this process handles it and ends them.

    A terminal sends Ctrl-C to all processes of a command. A process that is still starting has no handler yet
    and would show a traceback. A Ctrl-C that arrives here in the meantime is handled afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this :mod:`multiprocessing` process when its parent ends, even if the parent was killed."""
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _start() -> None:
    """Set up a pool process before numpy is loaded: a single thread, and it ends with its parent."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    end_with_parent()


def _wait_and_end() -> None:
    """Wait for the parent to end, because a killed parent cannot stop its processes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
