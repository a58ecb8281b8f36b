"""Detect full disks, and report them in one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from kdcmae.errors import DiskFullError

__all__ = ["disk_is_full", "writing"]

# A file may also reach the largest size that its user or its file system allows.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors reports a system error


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, means a full disk, an exhausted quota or a file at its size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if (match := _RUST.search(str(error))) and int(match[1]) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Write a file; a full disk becomes one line, whatever library it surfaces in.

    Raises:
        DiskFullError: there is no space left for it.
    """
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise DiskFullError(f"{path}: no space left on the device; free some and run again") from error
        raise
