"""Matrix products of numpy in the caller's thread.

Numpy's OpenBLAS divides a product among all CPUs, and its threads wait for each other in a loop. For the small products
of preprocessing that gains little on an idle machine. On a busy one, or when several threads prepare clips, it is ten
times slower: a thread that has no CPU keeps all others waiting. A process has one setting for that, so it is changed
for as long as a product lasts and put back.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["one_thread"]

_PREFIXES, _SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "")  # by who built numpy
_MODULES = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # since numpy 2, and before


class _Users:
    """Callers of :func:`one_thread`, and the setting that the last of them restores."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count, self.before = 0, 0


_users = _Users()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy multiply matrices in the caller's thread for the length of a ``with`` block.

    Nothing changes where numpy was built with another library than OpenBLAS.
    """
    get, put = _setting()
    with _users.lock:
        if _users.count == 0:
            _users.before = get()
            put(1)
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if _users.count == 0:
                put(_users.before)


@functools.cache
def _setting() -> tuple[Callable[[], int], Callable[[int], object]]:
    """Functions that read and write OpenBLAS's number of threads; ones that do nothing where numpy has none."""
    for name in _MODULES:
        try:
            library = ctypes.CDLL(importlib.import_module(name).__file__)  # symbols of what it is linked with, too
        except (ImportError, OSError):
            continue
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                get, put = (getattr(library, f"{prefix}_{verb}_num_threads{suffix}", None) for verb in ("get", "set"))
                if get and put:
                    return get, put
        break
    return lambda: 1, lambda count: None
