"""The user's cache folder: what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

from kdcmae.errors import ConfigError

__all__ = ["user_cache"]


def user_cache() -> Path:
    """``$KDCMAE_CACHE`` or ``~/.cache/kdcmae``; it need not exist.

    Raises:
        ConfigError: this user has no home folder.
    """
    if folder := os.environ.get("KDCMAE_CACHE"):
        return Path(folder)
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute():
        raise ConfigError("this user has no home folder; set KDCMAE_CACHE to a folder that can be written to")
    return home / ".cache" / "kdcmae"
