"""Folder of committed results, names of files in it, and atomic writes into it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "slug", "write_json", "write_text"]

RESULTS = Path("bench/results")


def slug(name: str) -> str:
    """The name of a machine or device as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the JSON atomically: a reader never sees half a file."""
    write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text atomically."""
    from kdcmae.files.replacing import replacing  # brings numpy, which no --help needs

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
