"""Atomic writes: a file is complete or absent."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcmae.runtime.folders import openable

__all__ = ["open_to_others", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file with a random name beside ``path``; it replaces ``path`` when the block ends.

    It is removed if the block fails. Its name does not contain the process number, which several containers may share,
    nor the name of ``path``, which may already have the maximum length; only its suffix.

    Args:
        path: of the file; its folder exists.
    """
    with openable(path.parent) as folder:
        partial = folder / f".{secrets.token_hex(8)}.partial{path.suffix}"
        try:
            yield partial
            open_to_others([partial])
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def open_to_others(files: Iterable[Path]) -> None:
    """Give files the permissions of a new file in their folder, because some libraries restrict theirs to the owner.

    The mode comes from a probe file, because reading the process's mask would change it for other threads.

    Args:
        files: in writable folders; the mode of a new file beside the first one applies to all.

    Raises:
        OSError: one of them is not there.
    """
    usual = None
    for file in files:
        if usual is None:
            usual = _usual_mode(file.parent)
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode | usual != mode:
            file.chmod(mode | usual)


def _usual_mode(folder: Path) -> int:
    probe = folder / f".{secrets.token_hex(8)}.partial"
    try:
        probe.touch()
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
