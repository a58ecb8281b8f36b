"""Engine folders that others may replace at any moment, and paths that libraries cannot open.

Engine libraries open their files by path, one after the other, so a folder cannot be held while it is read. Instead it
is looked at before and after, and read again where it was replaced in between.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kdcmae.errors import EngineError
from kdcmae.runtime.manifest import Manifest, verify_files

__all__ = ["Publication", "file_sizes", "of_one_publication", "openable"]

Result = TypeVar("Result")

_ATTEMPTS, _PATIENCE_S = 3, 30.0  # at least, each lost to an engine that was published while another was loaded


class Publication:
    """Snapshot of the files in an engine folder, which shows later whether another engine took their place.

    Args:
        folder: need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _identities(folder)

    def is_current(self) -> bool:
        """Whether every name in the folder still stands for the same file, unwritten since, links followed."""
        return _identities(self.folder) == self._files

    def holds(self, manifest: Manifest) -> bool:
        """Whether the folder still holds the engine of a manifest that was read from it.

        Some network file systems number a file anew each time. There the content tells.
        """
        if self.is_current():
            return True
        try:
            verify_files(self.folder, manifest)
            return Manifest.read(self.folder) == manifest
        except EngineError:
            return False


def of_one_publication(folder: Path, read: Callable[[Publication], Result]) -> Result:
    """Read several files of a folder, again where another engine has been published in between.

    Args:
        folder: the engine folder.
        read: raises where :meth:`Publication.holds` says that it read files of two engines.

    Returns:
        What it read.

    Raises:
        Exception: what ``read`` raised of a folder that has not changed.
    """
    start = time.monotonic()
    for attempt in itertools.count(1):
        publication = Publication(folder)
        try:
            return read(publication)
        except Exception:
            if publication.is_current() or (attempt >= _ATTEMPTS and time.monotonic() - start > _PATIENCE_S):
                raise
    raise AssertionError("counting does not end")


def file_sizes(folder: Path) -> dict[str, int]:
    """Sizes of the files of an engine folder in bytes by name, sorted; links count as what they lead to.

    Hidden names are not the engine's: volumes of Kubernetes have some.

    Args:
        folder: the engine folder.
    """
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@contextmanager
def openable(path: Path) -> Iterator[Path]:
    """A path of a folder or file that any library can open while the block lasts.

    Libraries take text, so many cannot open a path with bytes in it that are not UTF-8. Such paths exist on Linux
    alone, where what is open also has a name in ASCII.

    Args:
        path: of a folder or file that exists.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Not "self", which would be another in a compiler that this process starts, nor our own idea of our number.
            yield Path("/proc", os.readlink("/proc/self"), "fd", str(descriptor))
        finally:
            os.close(descriptor)
    else:
        yield path


def _identities(folder: Path) -> dict[str, tuple[int, ...]]:
    """Device, inode, size in bytes and times of the last writing and of the last change in ns of the files by name.

    A new file may get the inode of one that was just removed, and with it be as old as what it is a copy of.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _identity(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError:
        return {}


def _identity(entry: os.DirEntry[str]) -> tuple[int, ...]:
    try:
        found = entry.stat()
    except OSError:  # gone since, or a link to nothing
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
