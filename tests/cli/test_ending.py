from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from kdcmae.cli.commands import KdcmaeCommand
from kdcmae.errors import DeviceError, GateError


def command_that(act) -> click.Command:
    return KdcmaeCommand("tool", callback=act)


def raising(error: BaseException) -> click.Command:
    def act():
        raise error

    return command_that(act)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GateError("the ladder failed"), 1, "error: the ladder failed"),
        (DeviceError("no GPU"), 3, "error: no GPU"),
        (FileNotFoundError(2, "No such file", "x.mp4"), 2, "error: x.mp4: No such file"),
        (ImportError("No module named 'av'"), 3, "error: ImportError: No module named 'av' (run it again with"),
        (ModuleNotFoundError(name="av.audio"), 3, "error: av is not installed; install it with: pip install 'kdcmae["),
        (MemoryError(), 3, "error: MemoryError (run it again with"),
        (
            OverflowError("too\nlarge"),
            2,
            "error: OverflowError: too; large (run it again with --traceback to see where)",
        ),
        (EOFError(), 2, "error: EOFError (run it again with"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("not so"), 2, "Error: not so"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: BrokenPipeError: [Errno 32] Broken pipe (run it again"),
        (SystemExit(1), 1, ""),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(error, code, message, monkeypatch):
    monkeypatch.delenv("KDCMAE_TRACEBACK", raising=False)
    result = CliRunner().invoke(raising(error))
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout


def test_a_long_message_keeps_its_beginning_and_its_end():
    line = CliRunner().invoke(raising(RuntimeError(f"first {'x ' * 2000}last"))).stderr
    assert line.startswith("error: RuntimeError: first")
    assert "last (run it again" in line
    assert len(line) < 800


@pytest.mark.parametrize(("arguments", "variable"), [(["--traceback"], "0"), ([], "1")])
def test_a_traceback_is_shown_where_it_is_asked_for(arguments, variable, monkeypatch):
    monkeypatch.setenv("KDCMAE_TRACEBACK", variable)
    result = CliRunner().invoke(raising(GateError("the ladder failed")), arguments)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: the ladder failed\n")


def test_what_the_package_logs_is_a_note():
    logger = logging.getLogger("kdcmae.runtime")
    assert CliRunner().invoke(command_that(lambda: logger.warning("no %s", "AMX"))).stderr == "warning: no AMX\n"
    assert not logging.getLogger("kdcmae").handlers


def test_what_is_logged_again_is_told_once():
    logger = logging.getLogger("kdcmae.normalisation")
    said = command_that(lambda: [logger.warning("assuming %s", name) for name in ("a", "b", "a")])
    assert CliRunner().invoke(said).stderr == "warning: assuming a\nwarning: assuming b\n"
    assert CliRunner().invoke(said).stderr.count("assuming a") == 1


def test_the_handler_of_sigterm_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    CliRunner().invoke(command_that(lambda: seen.append(signal.getsignal(signal.SIGTERM))))
    assert seen != [before]
    assert signal.getsignal(signal.SIGTERM) is before


PROGRAM = """
import sys, time
from contextlib import suppress
from pathlib import Path
from kdcmae.cli.commands import KdcmaeCommand
from kdcmae.terminal import say
import click

def act(path):
    try:
        Path(path).touch()
        say("started")
        {work}
    finally:
        Path(path).unlink()

def import_module(name):
    try:
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error

KdcmaeCommand("tool", callback=act, params=[click.Argument(["path"])]).main()
"""


def started(work: str, path) -> subprocess.Popen[str]:
    """A program that is in the middle of its work, and removes its file when it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "message"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
@pytest.mark.parametrize(
    "work", ["time.sleep(60)", "import_module('compiled')", "with suppress(ImportError): import_module('compiled')"]
)
def test_signals_end_a_command_cleanly(work, number, code, message, tmp_path):
    process = started(work, tmp_path / "scratch")
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", message)
    assert process.returncode == code
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    "work",
    [
        "[say('line') for _ in range(100_000)]",  # notices while it writes
        "sys.stdin.read(); sys.stdout.write('line')",  # notices when it ends
        "sys.stdin.read(); sys.stdout.write('line'); sys.exit(0)",
    ],
)
@pytest.mark.parametrize("buffering", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(buffering, work, tmp_path):
    reading, writing = os.pipe()
    command = [sys.executable, "-c", PROGRAM.format(work=work), str(tmp_path / "scratch")]
    environment = {**os.environ, "PYTHONUNBUFFERED": buffering}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    assert os.read(reading, 7) == b"started"
    os.close(reading)
    assert process.communicate(timeout=60) == (None, b"")
    assert process.returncode == 0
    assert not (tmp_path / "scratch").exists()
