"""Engine folders that another process may replace at any moment, and paths that libraries cannot open.

Engine libraries open their files by path, one after the other, so a folder cannot be locked while it is read. Instead,
its files are compared before and after, and the folder is read again if it was replaced in between.
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

_ATTEMPTS, _PATIENCE_S = 3, 30.0  # least number of attempts, and seconds of trying, before giving up


class Publication:
    """Snapshot of the files in an engine folder, which shows later whether another engine replaced them.

    Args:
        folder: the folder; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _identities(folder)

    def is_current(self) -> bool:
        """Whether every name in the folder still leads to the same file, not written since. Links are followed."""
        return _identities(self.folder) == self._files

    def holds(self, manifest: Manifest) -> bool:
        """Whether the folder still holds the engine of a manifest that was read from it.

        Some network file systems change the number of a file each time. Then the contents are compared.
        """
        if self.is_current():
            return True
        try:
            verify_files(self.folder, manifest)
            return Manifest.read(self.folder) == manifest
        except EngineError:
            return False


def of_one_publication(folder: Path, read: Callable[[Publication], Result]) -> Result:
    """Read several files of a folder, and read them again if another engine was published in between.

    Args:
        read: reads the files; raises if :meth:`Publication.holds` says that they belong to two engines.

    Returns:
        The result of ``read``.

    Raises:
        Exception: the error of ``read`` for a folder that has not changed.
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
    """Sizes of the files of an engine folder in bytes by name, sorted. Links are followed.

    Hidden files are left out, because they do not belong to the engine: Kubernetes volumes have some.
    """
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@contextmanager
def openable(path: Path) -> Iterator[Path]:
    """A path of a folder or file that any library can open while the block lasts.

    Many libraries take paths as text, and cannot open a path that is not valid UTF-8. Such paths exist only on Linux,
    where every open file also has an ASCII name under ``/proc``.

    Args:
        path: path of a folder or file that exists.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Not "self", because a compiler that this process starts has another; not the process id, because /proc may
            # show the process under another number.
            yield Path("/proc", os.readlink("/proc/self"), "fd", str(descriptor))
        finally:
            os.close(descriptor)
    else:
        yield path


def _identities(folder: Path) -> dict[str, tuple[int, ...]]:
    """Device, inode, size in bytes, and times of the last write and the last change in ns of the files, by name.

    The inode alone is not enough, because a new file may get that of a file just removed; nor is the time of the last
    write, because a copy may have that of its original.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _identity(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError:
        return {}


def _identity(entry: os.DirEntry[str]) -> tuple[int, ...]:
    try:
        status = entry.stat()
    except OSError:  # removed in the meantime, or a broken link
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
