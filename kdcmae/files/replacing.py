"""Files that appear whole or not at all."""

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
    """Temporary file beside another, with a random name; it replaces the other one when the block ends.

    Nothing remains of it where the block fails. In containers several processes may have the same number, so that is
    no part of the name; neither is the file's own, which may be as long as names can be, but for its suffix.

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
    """Let whoever may use a new file there use these: some libraries write theirs for the owner alone.

    A file tells what that mode is, since a process can only read its mask by changing it, for other threads as well.

    Args:
        files: in folders that can be written to; the mode of a new file beside the first counts for all.

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
