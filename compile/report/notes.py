"""What stands below a table of rungs, on the page as in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["how_rungs_ran"]


def how_rungs_ran(rungs: Sequence[Mapping[str, Any]]) -> list[str]:
    """How rungs of a manifest ran, in words; those that ran the same way share a line."""
    names: dict[str, list[str]] = {}
    for rung in rungs:
        if note := rung.get("note"):
            names.setdefault(note, []).append(rung["name"])
    return [f"{', '.join(shared)}: {note}" for note, shared in names.items()]
