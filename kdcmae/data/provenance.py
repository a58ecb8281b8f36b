"""Records of the sources of derived files, so that a file is derived again when its source changes."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from kdcmae.files.disk import writing

__all__ = ["Source", "Sources", "source_of"]

Source = dict[str, Any]
"""State of a file: its size in bytes and its modification time in ns."""


def source_of(path: Path) -> Source:
    """The current state of a file.

    Raises:
        OSError: it is not there.
    """
    facts = path.stat()
    return {"bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}


class Sources:
    """A file with one JSON line per item: its source and the settings it was made with.

    Lines are appended when an item is begun and when it is done, so that they survive if the run is killed. The last
    line of an item counts; a line without a source says that the item was begun.

    Args:
        path: of the file; a new one if need be.
        settings: plain values that decide what is made of a source.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self._made: dict[str, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
            try:
                entry = json.loads(line)
                self._made[entry.pop("id")] = entry
            except (ValueError, AttributeError, KeyError, TypeError):
                continue  # the last line of a run that was killed; its item is made again

    def __contains__(self, item: str) -> bool:
        """Whether the item was ever made, from any source."""
        return item in self._made

    def current(self, item: str, source: Source) -> bool:
        """Whether an item was made from the current state of its source, with these settings."""
        return self._made.get(item) == {**source, **self._settings}

    def __enter__(self) -> Sources:
        self._file = self._path.open("a", encoding="utf-8")
        if self._file.tell():
            self._file.write("\n")  # the run before may have been killed in the middle of a line
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with writing(self._path):  # a line that did not reach the disk is tried again
            self._file.close()

    def begin(self, item: str) -> None:
        """Forget what an item was made from: its files are about to be overwritten, one after another.

        Raises:
            DiskFullError: no space is left to note it.
        """
        if item in self._made:
            self._append(item, {})

    def add(self, item: str, source: Source) -> None:
        """Remember that an item was made.

        Raises:
            DiskFullError: no space is left to note it.
        """
        self._append(item, {**source, **self._settings})

    def _append(self, item: str, entry: dict[str, Any]) -> None:
        self._made[item] = entry
        with writing(self._path):
            self._file.write(json.dumps({"id": item, **entry}) + "\n")
            self._file.flush()
