"""What every command of every program has, by a walk over all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from help_examples import EVERY, PROGRAMS

from kdcmae import __version__
from kdcmae.cli.commands import KdcmaeCommand, Number

every_command = pytest.mark.parametrize("path", EVERY, ids=" ".join)


def run(path: tuple[str, ...], *arguments: str):
    program, *words = path
    return CliRunner(charset="ascii").invoke(PROGRAMS[program], [*words, *arguments], prog_name=program)


@every_command
def test_ends_as_all_commands_do(path):
    assert isinstance(EVERY[path], KdcmaeCommand)


@every_command
def test_says_its_version(path):
    result = run(path, "--version")
    assert (result.exit_code, result.output) == (0, f"{path[0]}, version {__version__}\n")


@every_command
def test_explains_itself_in_plain_characters(path):
    result = run(path, "--help")
    assert result.exit_code == 0
    assert result.stdout.isascii()
    assert "..." not in result.stdout.partition("Commands:")[2]
    assert "<=None" not in result.stdout
    for option in ("--traceback", "--version", "-h, --help"):
        assert option in result.stdout


@every_command
def test_every_option_has_a_help_and_shows_its_default(path):
    command = EVERY[path]
    context = click.Context(command, **command.context_settings)
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.opts
            shown = option.get_help_record(context)[1]
            if not option.is_flag and option.to_info_dict()["default"] not in (None, ()):
                assert shown.count("[default: ") == 1, shown
                assert '[default: ""' not in shown


@every_command
def test_wrong_use_is_one_error_and_exit_code_2(path):
    result = run(path, "--no-such-option")
    assert result.exit_code == 2
    assert "Error: No such option" in result.stderr
    assert not result.stdout


@every_command
def test_no_option_takes_what_is_no_number(path):
    for option in EVERY[path].params:
        if option.type.name.startswith("float"):
            assert isinstance(option.type, Number)
            for value in ("nan", "inf", "-inf"):
                with pytest.raises(click.BadParameter):
                    option.type.convert(value, option, None)


def test_options_of_a_build_stand_in_sections():
    for name in ("build", "diagnose"):
        command = EVERY["kdcmae-compile", name]
        listed = {parameter for parameters in command.sections.values() for parameter in parameters}
        options = {option.name for option in command.params if isinstance(option, click.Option)}
        assert options - listed == {"traceback", "version"}


def started(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command as a shell starts it."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, env={**variables, **environment})


@pytest.mark.parametrize("module", ["kdcmae", "kdcmae.compile", "kdcmae.bench"])
def test_every_program_runs_as_a_module(module):
    result = started(module, "--version")
    assert result.returncode == 0
    assert result.stdout.decode() == f"python -m {module}, version {__version__}\n"


NOPE = """
import sys
from kdcmae.bench.cli import main

try:
    main(["nope"])
except SystemExit as end:
    assert end.code == 2
assert not {"torch", "openvino"} & sys.modules.keys()
"""


def test_wrong_use_of_a_benchmark_loads_no_library():
    result = subprocess.run([sys.executable, "-c", NOPE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("error: nope does not exist; give an engine folder")


@pytest.mark.parametrize(
    "environment",
    [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8"}],
    ids=str,
)
def test_names_of_any_bytes_can_be_shown_anywhere(environment, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m\xe7\x8a\xac"))
    folder.mkdir()
    result = started("kdcmae.compile", "inspect", str(folder), **environment)
    assert result.returncode == 2
    shown = result.stderr.decode(environment.get("PYTHONIOENCODING", "ascii"))
    name = "\\udcff\\x1b[31m" + ("\u72ac" if environment.get("PYTHONIOENCODING") == "utf-8" else "\\u72ac")
    assert shown == f"error: {tmp_path}/{name} has no manifest.json; give an engine folder that kdcmae-compile wrote\n"
