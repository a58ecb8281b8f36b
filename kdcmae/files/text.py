"""Text files that people write with any editor or spreadsheet: class names, manifests and expected outputs.

All of them are read here, so that encodings and line breaks are treated alike. A line ends at a
line feed, a carriage return or both, and nowhere else: ``str.splitlines`` also splits at form feeds and U+0085, which
would shift all later classes.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcmae.errors import DataError

__all__ = ["Table", "name_of", "read_json", "read_json_lines", "read_table", "read_text", "without_line_breaks"]

# The mark of UTF-32 begins with that of UTF-16, so it is tested first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = (",", ";", "\t")  # spreadsheets write semicolons where a comma is the decimal sign


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV file.

    Args:
        columns: of the header, in lower case, without the spaces around them.
        rows: where each row begins, as ``FILE: line N``, and its fields by column, without the spaces around them;
            None for a field that a short row lacks. Rows without any text are left out.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[str, Mapping[str, str | None]]]


def read_text(path: str | os.PathLike[str]) -> str:
    r"""The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; every line ends with ``\n``.

    Raises:
        DataError: cannot be read, is in another encoding, or holds NUL characters.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: cannot be read as {encoding.removesuffix('-sig').upper()} "
            f"(byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}: line {line}: holds a NUL character: binary, or UTF-16 without a byte order mark; "
            f"save the file as UTF-8"
        )
    return text


def read_table(path: str | os.PathLike[str]) -> Table:
    """A CSV file with a header; its separator is a comma, a semicolon or a tab, whichever splits the header.

    Raises:
        DataError: cannot be read as text, has no header, or one with a column twice. While rows are read: a row has
            more columns than the header, or is not CSV.
    """
    text, first = read_text(path), 1
    hint, _, rest = text.partition("\n")
    separator = ""
    if hint.lower().startswith("sep=") and len(hint) == len("sep=;"):  # Excel's own hint, which it hides
        text, first, separator = rest, 2, hint[-1]
    separator = separator or max(_SEPARATORS, key=lambda candidate: len(_header(text, candidate)))
    columns = tuple(column.strip().lower() for column in _header(text, separator))
    if not any(columns):
        raise DataError(f"{path}: line {first}: is empty, and should name the columns")
    if twice := [column for column in columns if column and columns.count(column) > 1]:
        raise DataError(f"{path}: line {first}: column {twice[0]} occurs twice")
    return Table(columns=columns, rows=_rows(path, text, separator, columns, first))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: cannot be read as text, or is not JSON; the message names the line.
    """
    return _parse_json(read_text(path), path)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """The place, as ``FILE: line N``, and the content of each line that is not blank.

    Raises:
        DataError: cannot be read as text, or a line is not JSON.
    """
    for number, line in enumerate(_lines(read_text(path)), start=1):
        if line.strip():
            yield f"{path}: line {number}", _parse_json(line, path, number)


def name_of(path: str | os.PathLike[str]) -> str:
    """The name of a file as text that any program can read: bytes that are not UTF-8 become escapes like ``\\xe9``."""
    return os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace")


def without_line_breaks(text: str) -> str:
    """A text without the spaces around it, and with one space for every line break of any kind inside it."""
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


def _lines(text: str) -> Iterator[str]:
    """The lines of a text one by one: a list of a million of them takes twice the memory of the text."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _header(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text), delimiter=separator), [])
    except csv.Error:
        return []


def _rows(
    path: str | os.PathLike[str], text: str, separator: str, columns: tuple[str, ...], first: int
) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    before = 0
    try:
        for number, values in enumerate(reader):
            place, before = f"{path}: line {before + first}", reader.line_num
            fields = [value.strip() for value in values]
            if number == 0 or not any(fields):
                continue
            if any(fields[len(columns) :]):
                raise DataError(f"{place}: has more columns than the header; quote what holds a {separator!r}")
            missing = [None] * (len(columns) - len(fields))
            yield place, dict(zip(columns, [*fields, *missing], strict=False))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num + first - 1}: is not CSV: {error}") from error


def _parse_json(text: str, path: str | os.PathLike[str], line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {line + error.lineno - 1}: is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path}: line {line}: is nested too deep") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{path}: line {line}: is not JSON: {error}") from error
