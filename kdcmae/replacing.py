"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcmae.runtime.folders import openable

__all__ = ["replacing"]


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
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
