"""Folder of committed results, and atomic writes into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "write_json", "write_text"]

RESULTS = Path("bench/results")


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the JSON atomically: a reader never sees half a file."""
    write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write text atomically."""
    from kdcmae.files.replacing import replacing  # brings numpy, which no --help needs

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
