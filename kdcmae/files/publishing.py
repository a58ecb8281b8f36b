"""Engine folders that appear whole or not at all, to any number of builds and readers.

A build works in a hidden folder beside its destination, with a random name. It holds a lock in that folder until its
process ends, however it ends. Every process that shares the file system sees the lock, also from another container,
where process ids mean nothing. The next build removes hidden folders whose lock is free. On a file system without
locks, no folder counts as abandoned.

A complete engine is exchanged with the one at its destination in one step on Linux with the usual local file systems.
Elsewhere (some network file systems, and folders of a container's image) the old engine moves aside before the new one
takes its place: two builds at once are still safe, but a reader may find no engine for a moment.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcmae.errors import EngineError, KdcmaeError, cause
from kdcmae.files.replacing import open_to_others
from kdcmae.runtime.folders import openable

__all__ = ["check_destination", "publish", "remove_abandoned", "staging"]

_PARTIAL = ".partial-"
_LOCK, _STAGED, _REPLACED = "lock", "staged", "replaced"  # in a hidden folder
_FULL_BYTES = 1 << 20  # a disk with less free than this is full
_ATTEMPTS = 1000  # an attempt fails only if another build was faster
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # of linux/fs.h and linux/fcntl.h


def check_destination(
    folder: Path, *, what: str = "an engine", mark: str = "manifest.json", argument: str = "--output"
) -> None:
    """Refuse a destination that a build must not or cannot replace.

    Args:
        folder: where the engine, or what else is published, will be.
        what: what is published, in words.
        mark: name of a file that every such folder has.
        argument: how the user names the destination.

    Raises:
        EngineError: it is a file, a place that other things are mounted on, or a folder with something else in it; or
            its parent cannot be written to.
    """
    if folder.name in ("", ".."):
        raise EngineError(f"{folder} has no name of its own to be replaced by; choose a folder in it as {argument}")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise EngineError(f"{folder} is not a folder; choose another {argument}")
    if os.path.ismount(folder):
        raise EngineError(
            f"{folder} is a mounted volume, which cannot be replaced; choose a folder in it as {argument}"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise EngineError(f"{folder} holds files that are not {what}; choose another {argument} or empty it")
    parent = next(parent for parent in Path(os.path.abspath(folder)).parents if parent.exists())
    if not parent.is_dir():
        raise EngineError(f"{parent} is not a folder; choose another {argument}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EngineError(f"cannot write to {parent}: it is read-only for this user; choose another {argument}")


@contextmanager
def staging(folder: Path, *, fix: str = "choose another --output") -> Iterator[Path]:
    """A fresh folder to build in, on the same file system; it is removed again unless :func:`publish` took it.

    Args:
        folder: the destination; its parent is created.
        fix: what to do where its parent cannot be written to.

    Raises:
        EngineError: its parent cannot be written to, or the disk is full.
    """
    claim = _Claim()
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folder.parent, folder.name)
            hidden = claim.take(folder)
        except OSError as error:
            raise EngineError(f"cannot write to {folder.parent}: {error.strerror}; {fix}") from error
        with openable(hidden) as place:
            partial = place / _STAGED
            partial.mkdir()
            yield partial
    except Exception as error:
        free_bytes = _free_bytes(folder.parent)
        if not _failed_to_write(error, free_bytes):
            raise
        reason = cause(error)
        raise EngineError(
            f"cannot write to {folder.parent}: {free_bytes / 1e6:.1f} MB left on its disk ({reason}); "
            f"make room or {fix}"
        ) from error
    finally:
        claim.release()


def publish(partial: Path, folder: Path) -> None:
    """Move a complete engine folder to its place; an existing engine there is replaced.

    Args:
        partial: what :func:`staging` gave, or a folder in it, complete. It may hold the old engine afterwards.

    Raises:
        OSError: the destination cannot be replaced; it is unchanged.
    """
    open_to_others([path for path in partial.rglob("*") if path.is_file() and not path.is_symlink()])
    for _ in range(_ATTEMPTS):
        try:
            os.rename(partial, folder)  # where nothing is, or an empty folder
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        try:
            if _exchange(partial, folder) or _replace_in_steps(partial, folder):
                return
        except FileNotFoundError:
            continue  # another build has moved it aside, and will put its own engine there
    raise OSError(errno.EBUSY, "other builds replace this folder all the time", str(folder))


def remove_abandoned(parent: Path, name: str | None = None) -> None:
    """Clean up after builds that were killed.

    A build killed between the two steps of a replacement left the old engine aside: it is put back.

    Args:
        parent: the folder that holds the destinations.
        name: of one destination; None for all.
    """
    for hidden in list(parent.iterdir()):
        destination, partial, _ = hidden.name[1:].rpartition(_PARTIAL)
        if not (hidden.name.startswith(".") and partial and name in (None, destination)):
            continue
        try:
            lock = os.open(hidden / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            with suppress(OSError):
                hidden.rmdir()  # killed before its first file; one that lives takes another name
            continue
        except OSError:
            continue  # another user's, or none of ours
        try:
            if _locked(lock):
                _put_back(hidden, parent / destination)
                shutil.rmtree(hidden, ignore_errors=True)
        finally:
            os.close(lock)


class _Claim:
    """This build's hidden folder, and the lock in it that tells other builds that this one is alive."""

    def __init__(self) -> None:
        self._hidden: Path | None = None
        self._lock: int | None = None

    def take(self, folder: Path) -> Path:
        """Make the hidden folder beside a destination; :meth:`release` removes it in any case.

        Raises:
            OSError: it cannot be made.
        """
        for _ in range(_ATTEMPTS):
            # Named before it is made: a signal may end the build at any moment in between.
            self._hidden = folder.with_name(f".{folder.name}{_PARTIAL}{secrets.token_hex(8)}")
            self._hidden.mkdir()
            try:
                self._lock = os.open(self._hidden / _LOCK, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError:
                continue  # cleaned up as abandoned, before it was ours
            if _locked(self._lock, without=True) and (self._hidden / _LOCK).exists():
                return self._hidden
            os.close(self._lock)  # likewise
            self._lock = None
        raise OSError(errno.EBUSY, "other builds remove new folders at once", str(folder.parent))

    def release(self) -> None:
        """Remove the hidden folder and let go of its lock."""
        if self._hidden is not None:
            shutil.rmtree(self._hidden, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            shutil.rmtree(self._hidden or "", ignore_errors=True)  # again, where a system removes no file that is open


def _locked(descriptor: int, *, without: bool = False) -> bool:
    """Whether the lock is ours now; ``without`` says what counts where the file system has no locks."""
    from filelock import lock_descriptor  # brought by the extras that build engines; devices have none

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return without


def _failed_to_write(error: Exception, free_bytes: int) -> bool:
    """Whether a library failed to write without saying why.

    NumPy's OSError has no number when a disk is full, and others have errors of their own.
    """
    if isinstance(error, OSError):
        return error.errno is None
    return free_bytes < _FULL_BYTES and (isinstance(error, EngineError) or not isinstance(error, KdcmaeError))


def _free_bytes(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _exchange(partial: Path, folder: Path) -> bool:
    """Let two folders change places in one step; False where that cannot be done here.

    Raises:
        FileNotFoundError: one of them is not there.
        OSError: the system refuses.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(partial), _AT_FDCWD, os.fsencode(folder), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(folder))


def _replace_in_steps(partial: Path, folder: Path) -> bool:
    """Move the old engine aside, then the new one to its place; False where another build was there first.

    Raises:
        FileNotFoundError: there is no old engine any more.
        OSError: the new one cannot be moved; the old one is back.
    """
    aside = partial.with_name(_REPLACED)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(folder, aside)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(folder, aside)  # an overlay file system copies a folder of a container's image, and moves none
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        os.rename(aside, folder)
        raise
    return True


def _put_back(hidden: Path, folder: Path) -> None:
    for replaced in hidden.rglob(_REPLACED):
        with suppress(OSError):
            os.rename(replaced, folder)  # not over an engine that is there
