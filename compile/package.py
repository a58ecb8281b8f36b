"""Engine folders that appear whole or not at all.

A build happens in a hidden folder beside the destination, named after the building process. Only a complete one
takes the destination's place; a build that was killed leaves the hidden folder, which the next build removes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcmae.errors import EngineError

__all__ = ["check_destination", "publish", "staging"]

_PARTIAL = ".partial-"


def check_destination(folder: Path) -> None:
    """Refuse a destination that a build must not replace.

    Args:
        folder: where the engine will be.

    Raises:
        EngineError: it is a file, or a folder with something else than an engine in it.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise EngineError(f"{folder} is not a folder; choose another --output")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise EngineError(f"{folder} holds files that are not an engine; choose another --output or empty it")


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A fresh folder beside ``folder`` to build in; it is removed again unless :func:`publish` took it.

    Args:
        folder: the destination; its parent is created.

    Raises:
        EngineError: its parent cannot be written to.
    """
    partial = folder.with_name(f".{folder.name}{_PARTIAL}{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        partial.mkdir()
    except OSError as error:
        raise EngineError(f"cannot write to {folder.parent}: {error.strerror}; choose another --output") from error
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, folder: Path) -> None:
    """Move a complete engine folder to its place; an existing engine there is replaced.

    Args:
        partial: what :func:`staging` gave, complete.
        folder: the destination.
    """
    if not folder.exists():
        os.rename(partial, folder)
        return
    replaced = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    os.rename(folder, replaced)
    try:
        os.rename(partial, folder)
    except OSError:
        os.rename(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Clean up after builds of the same destination that were killed.

    A build killed between the two renames of :func:`publish` left the old engine aside: it is put back.
    """
    for replaced in folder.parent.glob(f".{folder.name}.replaced-*"):
        if not folder.exists():
            os.rename(replaced, folder)
        elif not _is_running(replaced):
            shutil.rmtree(replaced, ignore_errors=True)
    for partial in folder.parent.glob(f".{folder.name}{_PARTIAL}*"):
        if not _is_running(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(path: Path) -> bool:
    """Whether the process that a hidden folder is named after still lives."""
    try:
        os.kill(int(path.name.rpartition("-")[2]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
