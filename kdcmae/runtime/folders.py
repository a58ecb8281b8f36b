"""Engine folders that others may replace, and paths that libraries cannot open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderState", "folder_state", "openable"]

FolderState = dict[str, tuple[int, int, int, int]]


def folder_state(folder: Path) -> FolderState:
    """Which files a folder holds at this moment.

    Two states are equal where every name stands for the same file, unwritten in between: not after another engine was
    published in its place, nor after a link on the way to the files was changed.

    Args:
        folder: need not be there.

    Returns:
        Device, inode, size in bytes and time of the last change in ns, by name; links are followed.
    """
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _identity(entry) for entry in entries if not entry.name.startswith(".")}
    except OSError:
        return {}


@contextmanager
def openable(folder: Path) -> Iterator[Path]:
    """A path of a folder that any library can open while the block lasts.

    Engine libraries take text, so they cannot open a path with bytes in it that are not UTF-8. Such paths exist on
    Linux alone, where a folder also has a name in ASCII as long as this process holds it open.

    Args:
        folder: that exists.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        yield folder


def _identity(entry: os.DirEntry[str]) -> tuple[int, int, int, int]:
    try:
        found = entry.stat()
    except OSError:  # gone since, or a link to nothing
        return (0, 0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
