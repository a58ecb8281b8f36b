"""Class names from a file."""

from __future__ import annotations

import csv
from pathlib import Path

from kdcmae.errors import DataError

__all__ = ["read_labels"]


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names from a text file (one per line) or the published CSV (``index,mid,display_name``).

    Args:
        path: a file ending in ``.csv`` is read as CSV, any other as text.

    Raises:
        DataError: not readable as text, or a CSV without these columns.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read labels: {getattr(error, 'strerror', None) or error}") from error
    if path.suffix.lower() != ".csv":
        return tuple(line.strip() for line in lines if line.strip())
    try:
        rows = sorted(csv.DictReader(lines), key=lambda row: int(row["index"]))
        return tuple(row["display_name"] for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a label CSV needs the columns index,mid,display_name") from error
