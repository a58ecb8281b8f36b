"""Class names from a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdcmae.errors import DataError
from kdcmae.files.text import read_table, read_text, without_line_breaks

__all__ = ["ClassNames", "read_class_names", "read_labels"]

_COLUMNS = "a label CSV needs the columns index,mid,display_name"


@dataclass(frozen=True, kw_only=True)
class ClassNames:
    """The classes of a file, in the order of a model's outputs.

    Args:
        names: what people read, one line each.
        ids: what manifests may write instead; the names where the file has no ids.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...]


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names from a text file (one per line) or the published CSV (``index,mid,display_name``).

    Args:
        path: a file ending in ``.csv`` is read as CSV, any other as text.

    Raises:
        DataError: not readable as text, or not an unambiguous list of classes; the message names the line.
    """
    return read_class_names(path).names


def read_class_names(path: str | os.PathLike[str]) -> ClassNames:
    """Names and ids of classes, from the same files as :func:`read_labels`.

    Raises:
        DataError: not readable as text; a CSV without the columns, or whose indices do not count from 0 without gaps
            and repeats; a class without a name; a name or an id of two classes; or no class at all.
    """
    classes = (_of_table if Path(path).suffix.lower() == ".csv" else _of_text)(path)
    if not classes.names:
        raise DataError(f"{path}: names no classes; write one name per line")
    for values in (classes.names, classes.ids):
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise DataError(f"{path}: {value!r} stands for two classes")
            seen.add(value)
    return classes


def _of_text(path: str | os.PathLike[str]) -> ClassNames:
    # Blank lines at either end are ignored; a blank line in between could be a class that lost its name.
    names: list[str] = []
    for number, line in enumerate(read_text(path).rstrip().split("\n"), start=1):
        if name := without_line_breaks(line):
            names.append(name)
        elif names:
            raise DataError(f"{path}: line {number}: is blank, between names; name the class, or remove the line")
    return ClassNames(names=tuple(names), ids=tuple(names))


def _of_table(path: str | os.PathLike[str]) -> ClassNames:
    table = read_table(path)
    if not {"index", "display_name"} <= set(table.columns):
        raise DataError(f"{path}: {_COLUMNS}, and has {','.join(table.columns)}")
    rows: dict[int, tuple[str, str, str]] = {}
    for place, fields in table.rows:
        number, name = fields["index"] or "", without_line_breaks(fields["display_name"] or "")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise DataError(f"{place}: index {number!r} is no whole number; {_COLUMNS}")
        if not name:
            raise DataError(f"{place}: the class has no display_name")
        if int(number) in rows:
            raise DataError(f"{place}: index {number} was used before, by {rows[int(number)][1]!r}")
        rows[int(number)] = (fields.get("mid") or "", name, place)
    _require_counted(path, rows)
    ids, names, places = zip(*(rows[index] for index in range(len(rows))), strict=True) if rows else ((), (), ())
    if any(ids) and not all(ids):
        raise DataError(f"{places[ids.index('')]}: the class has no mid, and others have one")
    return ClassNames(names=names, ids=ids if any(ids) else names)


def _require_counted(path: str | os.PathLike[str], indices: Iterable[int]) -> None:
    """Refuse indices with a gap, because the outputs of the classes after it would be a guess."""
    present = set(indices)
    if present and present == set(range(1, len(present) + 1)):
        raise DataError(f"{path}: the column index counts from 1 to {len(present)}; it must count from 0")
    for expected, index in enumerate(sorted(present)):
        if index != expected:
            raise DataError(
                f"{path}: the column index must count from 0 without gaps: after {expected - 1} comes {index}"
                if expected
                else f"{path}: the column index must count from 0 without gaps: the smallest is {index}"
            )
