"""Everything that commands print passes through here: notes, tables and progress bars, as plain text.

click alone is needed, so that every command works on a device that has no more than numpy and one engine library.

Labels, paths and the messages of libraries come from files that anybody may have written, so that no control character
of theirs reaches a terminal: :func:`say` shows each as its escape, such as ``\\x1b``. Colours are written as characters
that Unicode reserves for programs' own use until then, and only :func:`say` makes them escape sequences. Characters
that the encoding of a stream lacks become plain ones.
"""

from __future__ import annotations

import codecs
import locale
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import click

__all__ = ["bar", "line", "note", "progress_bar", "progress_console", "redrawn", "say", "status", "style", "table"]

_GAP = "  "
_SECONDS_BETWEEN_LINES = 30  # of progress, where nobody watches

# Noncharacters, which no text holds: the beginning of each style, and the end of all.
_STYLES = {"bold": "\ufdd0", "red": "\ufdd1", "green": "\ufdd2", "yellow": "\ufdd3"}
_END = "\ufddf"
_SEQUENCES = {"\ufdd0": "\x1b[1m", "\ufdd1": "\x1b[31m", "\ufdd2": "\x1b[32m", "\ufdd3": "\x1b[33m", _END: "\x1b[0m"}
_TO_SEQUENCES = str.maketrans(_SEQUENCES)
_TO_NOTHING = str.maketrans(dict.fromkeys(_SEQUENCES, ""))

# C0 and C1, but for tab and newline; line separators; and what turns the direction of the text around it.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\t\n"}
_ESCAPES_IN_A_LINE = {**_ESCAPES, ord("\t"): "\\t", ord("\n"): "\\n"}

_PLAIN = {"±": "+/-", "·": "-", "…": "...", "²": "2", "°": "deg "}
_PLAIN_HANDLER = "kdcmae-plain"
_CLEAR_LINE = "\r\x1b[K"


class _ProgressConsole:
    """Where notes and progress go: stderr, unless a program that runs commands in its own process sets ``file``."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    @property
    def file(self) -> TextIO | None:
        """The stream; None where Python has no stderr."""
        return self._file or sys.stderr

    @file.setter
    def file(self, file: TextIO | None) -> None:
        self._file = file


progress_console = _ProgressConsole()


def say(text: str = "", *, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print one text.

    Args:
        text: may hold styles, and anything that a file or a library says.
        stream: stdout where None.
    """
    _write(_printable(text, _encoding(stream or sys.stdout)) + end, stream or sys.stdout)


def note(text: str, *, stream: TextIO | None = None) -> None:
    """Print one line on the progress console, stderr, in the place of a running step's name where there is one.

    Args:
        text: of the line; empty lines may come before it.
        stream: another one to print on.
    """
    stream = stream or progress_console.file
    words = text.lstrip("\n")
    empty = text[: len(text) - len(words)]
    _write(_clear(stream) + empty + _printable(line(words), _encoding(stream)) + "\n", stream)


def status(text: str) -> None:
    """Show on stderr what is going on until the next note, where somebody watches."""
    stream = progress_console.file
    if clear := _clear(stream):
        _write(clear + _printable(text, _encoding(stream)), stream)


def redrawn(lines: Sequence[str], before: int) -> int:
    """Print lines on stdout in the place of those that were printed before.

    Args:
        lines: to print; they may be styled.
        before: number of lines that they replace, the last ones of a terminal; 0 at first.

    Returns:
        Number of lines now.
    """
    up, stream = f"\x1b[{before}A" if before else "", sys.stdout
    shown = "".join(f"{_clear(stream)}{_printable(text, _encoding(stream))}\n" for text in lines)
    _write(f"{up}{shown}\x1b[J", stream)
    return len(lines)


def line(text: str) -> str:
    """A text without line breaks, such as a file's name that has some: they are shown as their escapes."""
    return text.translate(_ESCAPES_IN_A_LINE)


def style(text: str, kind: str) -> str:
    """A text in a style, where the output is a terminal.

    Args:
        kind: ``bold``, ``red``, ``green`` or ``yellow``; as it is where empty.
    """
    return f"{_STYLES[kind]}{text}{_END}" if kind else text


def _printable(text: str, encoding: str) -> str:
    """A text as a terminal may get it.

    Returns:
        The same text with control characters as escapes, styles as escape sequences, and without characters that the
        encoding lacks.
    """
    shown = text.translate(_ESCAPES).translate(_TO_SEQUENCES)
    return shown.encode(encoding, _PLAIN_HANDLER).decode(encoding)


def _write(text: str, stream: TextIO | None) -> None:
    if stream is not None:  # Python has none where the file was closed before it started
        click.echo(text, file=stream, nl=False)  # noqa: TID251 - drops escape sequences where the stream is no terminal


def _clear(stream: TextIO | None) -> str:
    """Escape sequence that clears the current line; empty where the stream is no terminal."""
    return _CLEAR_LINE if stream is not None and stream.isatty() else ""


def _encoding(stream: TextIO | None) -> str:
    """Encoding that a stream and its terminal can show.

    Python writes UTF-8 also where the locale is C, which says that the terminal knows ASCII alone; a user who knows
    better has asked for UTF-8.
    """
    asked = os.environ.get("PYTHONUTF8") or os.environ.get("PYTHONIOENCODING") or "utf8" in sys._xoptions
    if not asked and locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX"):
        return "ascii"
    return getattr(stream, "encoding", None) or "utf-8"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replacement for characters that an encoding lacks, as a codec error handler returns it."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or ascii(character)[1:-1] for character in lacking), error.end


codecs.register_error(_PLAIN_HANDLER, _plain)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Collection[int] = ()) -> str:
    """Text of a table, each of its columns as wide as its widest cell.

    Args:
        head: names of the columns; without names where empty.
        rows: cells, which may be styled.
        title: a line above; none where empty.
        right: numbers of the columns that are flush right.
    """
    lines = [[line(cell) for cell in row] for row in rows]
    if head:
        lines.insert(0, [style(line(name), "bold") for name in head])
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    if head:
        lines.insert(1, ["-" * width for width in widths])
    shown = [style(line(title), "bold")] if title else []
    for cells in lines:
        filled = (_filled(cell, widths[n], right=n in right) for n, cell in enumerate(cells))
        shown.append(_GAP.join(filled).rstrip())
    return "\n".join(shown)


def bar(share: float, width: int = 20) -> str:
    """A share of 1 as a bar of at most ``width`` characters."""
    return "#" * round(share * width)


@contextmanager
def progress_bar(
    label: str, total: int, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """A bar on stderr with the time that is left; where that is no terminal, the label and a line now and then.

    Args:
        label: of what is being done.
        total: steps; call what this gives once per step.
        clock: gives the seconds since any moment.
    """
    stream = progress_console.file
    if stream is None or stream.isatty():
        with click.progressbar(length=total, label=label, file=stream, show_pos=True) as shown:
            yield lambda: shown.update(1)
    else:
        note(label)
        yield _Lines(label, total, clock).step


class _Lines:
    """Progress in lines, as a log keeps them."""

    def __init__(self, label: str, total: int, clock: Callable[[], float]) -> None:
        self._label, self._total, self._done, self._clock = label, total, 0, clock
        self._began = self._said = clock()

    def step(self) -> None:
        """Count a step, and say how far this is where nothing was said for a while."""
        self._done += 1
        now = self._clock()
        if now - self._said >= _SECONDS_BETWEEN_LINES and self._done < self._total:
            self._said = now
            left = (now - self._began) / self._done * (self._total - self._done)
            note(f"{self._label}: {self._done} of {self._total}, {left / 60:.1f} min left")


def _width(cell: str) -> int:
    return len(cell.translate(_TO_NOTHING))


def _filled(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(cell))
    return f"{space}{cell}" if right else f"{cell}{space}"
