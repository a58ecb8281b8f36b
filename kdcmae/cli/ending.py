"""How a command ends: one line on stderr for an error, and an exit code for scripts.

0 done; 1 a gate failed; 2 wrong use, bad input or an unexpected error; 3 something is missing on this machine;
130 interrupted. A closed output pipe, as in ``... | head``, is no error.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from types import FrameType
from typing import Any, TextIO

import click

from kdcmae.errors import KdcmaeError, cause
from kdcmae.extras import missing_dependency
from kdcmae.terminal import note, say

__all__ = ["TRACEBACK_VARIABLE", "Run", "exit_code_of", "past_click"]

TRACEBACK_VARIABLE = "KDCMAE_TRACEBACK"
_INTERRUPTED = 130
_TERMINATED = 143


@dataclass
class Run:
    """State of one run of a command, shared by all commands.

    Args:
        traceback: show the traceback of an error.
        interrupted: Ctrl-C was pressed, so the command ends as interrupted. An interrupted library may raise another
            error instead, as the import of a compiled module does.
    """

    traceback: bool = field(default_factory=lambda: os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0"))
    interrupted: bool = False


class _CarriedError(Exception):
    """Carries an exception past click, which would end with exit code 1."""


@contextmanager
def past_click() -> Iterator[None]:
    """Pass interrupts, broken pipes and ends of files to :func:`exit_code_of`."""
    try:
        yield
    except (BrokenPipeError, EOFError, KeyboardInterrupt) as error:
        raise _CarriedError from error


def exit_code_of(command: Callable[[], Any], run: Run) -> int:
    """Run a command, and print its error if there is one.

    Args:
        command: returns an exit code, or something else when it is done.
        run: the options that every command has.

    Returns:
        The exit code.
    """
    try:
        _open_missing_streams()
        with _signals(run), _logging():
            code = command()
        code = code if isinstance(code, int) else 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except _CarriedError as raised:
        code = _answered(raised.__cause__ or raised, run)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        code = _answered(error, run)
    if run.interrupted and code != _INTERRUPTED:  # the interrupt became another error
        code = _answered(KeyboardInterrupt(), run)
    _discard_broken_output()
    return code


def _open_missing_streams() -> None:
    """Open the null device if the program was started without stdin, stdout or stderr, as by ``2>&-``.

    Otherwise another file would get that number, and a worker process would write its messages into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


@contextmanager
def _signals(run: Run) -> Iterator[None]:
    """Record Ctrl-C, and make SIGTERM unwind the stack in the same way, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only in the main thread
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        run.interrupted = True
        signal.default_int_handler(number, frame)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored by commands in the background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Print log messages of the package as notes of the command."""
    logger, notes = logging.getLogger("kdcmae"), _Notes(logging.WARNING)
    level = logger.level  # a command may raise it
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(level)


class _Notes(logging.Handler):
    """Prints each log message once on stderr; a command may load a model more than once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if line not in self._said:
            self._said.add(line)
            note(line)


def _answered(error: BaseException, run: Run) -> int:
    """Print an error, and return the exit code."""
    if run.interrupted:
        error = KeyboardInterrupt()
    if isinstance(error, BrokenPipeError) and _discard_broken_output():
        return 0
    with suppress(BrokenPipeError):
        if run.traceback:
            say("".join(traceback.format_exception(error)), stream=sys.stderr, end="")
        message, code = _described(error)
        for row in message.splitlines():
            note(row)
    return code


def _described(error: BaseException) -> tuple[str, int]:
    """Message for stderr and exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", _INTERRUPTED
    if isinstance(error, click.ClickException):
        shown = StringIO()
        error.show(file=shown)
        return shown.getvalue().rstrip("\n"), error.exit_code
    if isinstance(error, ModuleNotFoundError):
        error = missing_dependency(error) or error
    if isinstance(error, KdcmaeError):
        return f"error: {error}", error.exit_code
    if isinstance(error, OSError) and error.filename:
        return f"error: {error.filename}: {error.strerror or error}", 2
    text, kind = cause(error), type(error).__name__
    code = 3 if isinstance(error, (ImportError, MemoryError)) else 2
    return f"error: {kind if text == kind else f'{kind}: {text}'} (run it again with --traceback to see where)", code


def _discard_broken_output() -> bool:
    """Discard output that no reader is left for, so that Python does not report an error when it ends.

    Returns:
        Whether a reader has closed its end.
    """
    broken = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in broken:
        with suppress(OSError):  # no file of the system's
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return bool(broken)


def _is_broken(stream: TextIO) -> bool:
    """Whether the reader of a stream has closed its end."""
    try:
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # Windows has no poll; a stream in memory, or a closed one
        return False
    # An unbuffered stream has nothing left to flush; its output is already lost.
    return any(event & select.POLLERR for _, event in poll.poll(0))
