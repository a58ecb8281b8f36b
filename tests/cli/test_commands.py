from __future__ import annotations

import sys
from types import SimpleNamespace

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from kdcmae import __version__
from kdcmae.cli.commands import KdcmaeCommand, LazyGroup
from kdcmae.terminal import say


@click.command(cls=KdcmaeCommand, sections={"Timing": ["batch"]})
@click.argument("subjects", nargs=-1)
@click.option("--batch", type=int)
@click.option("--seconds", default=10.0, help="To time for.")
def run(subjects, batch, seconds):
    """Run subjects."""
    say(f"run {subjects} {batch}")


@click.command(cls=KdcmaeCommand)
@click.option("--limit", default=0.5, help="Largest difference.")
def compare(limit):
    """Compare two reports of one machine, which are the last two of the suite where none are named on the way."""
    say("compare")


def group(**settings) -> LazyGroup:
    return LazyGroup("tool", help="A tool.", modules={"run": "fake_run", "compare": "fake_compare"}, **settings)


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Modules with a command each; only those asked for may be looked up."""
    for name, command in (("fake_run", run), ("fake_compare", compare)):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(command=command))


def output(tool: LazyGroup, *arguments: str) -> str:
    return CliRunner().invoke(tool, arguments).output


def test_commands_are_imported_when_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "fake_run")
    assert output(group(), "compare") == "compare\n"
    assert "No such command 'other'" in output(group(), "other")


def test_a_default_command_gets_what_names_no_command():
    tool = group(default="run")
    assert output(tool, "compare") == "compare\n"
    assert output(tool, "a", "b", "--batch", "2") == "run ('a', 'b') 2\n"
    assert output(tool, "--batch", "2", "compare") == "run ('compare',) 2\n"


def test_the_help_is_that_of_the_default_command():
    text = output(group(default="run"), "--help")
    assert "Run subjects." in text
    assert "compare  Compare two reports" in text
    assert "A tool." in output(group(), "--help")


def test_a_list_of_commands_has_whole_sentences():
    assert "are named on the way." in " ".join(output(group(), "--help").split())


def test_every_default_is_shown_and_options_stand_in_their_sections():
    text = output(group(default="run"), "--help")
    assert "To time for.  [default: 10.0]" in text
    assert text.index("Timing:") < text.index("--batch") < text.index("Other options:") < text.index("--seconds")
    assert "Largest difference.  [default: 0.5]" in output(group(), "compare", "--help")


@pytest.mark.parametrize("arguments", [["--version"], ["compare", "--version"]])
@pytest.mark.parametrize("settings", [{}, {"default": "run"}])
def test_every_command_says_its_version(arguments, settings):
    assert output(group(**settings), *arguments) == f"tool, version {__version__}\n"


@pytest.mark.parametrize("settings", [{}, {"default": "run"}])
def test_a_misspelt_command_is_guessed(settings):
    result = CliRunner().invoke(group(**settings), ["compar", "a"])
    assert result.exit_code == 2
    assert "No such command 'compar'. Did you mean 'compare'?" in result.output


def test_a_file_is_no_misspelt_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compar").touch()
    assert output(group(default="run"), "compar") == "run ('compar',) None\n"


def test_a_word_that_the_default_command_cannot_take_is_no_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "fake_run", SimpleNamespace(command=compare))
    assert "No such command 'out/engine'. Commands are compare." in output(group(default="run"), "out/engine")


def completions(tool: LazyGroup, words: str) -> list[str]:
    """What the shell offers for the last word."""
    *before, last = words.split(" ")
    complete = ShellComplete(tool, {}, "tool", "_TOOL_COMPLETE")
    return [item.value for item in complete.get_completions(before, last)]


def test_the_shell_completes_commands_and_options_of_the_default_one():
    tool = group(default="run")
    assert completions(tool, "") == ["compare"]
    assert completions(tool, "c") == ["compare"]
    assert completions(tool, "--b") == ["--batch"]
    assert completions(tool, "--batch 2 --sec") == ["--seconds"]
    assert completions(tool, "compare --l") == ["--limit"]
    assert completions(group(), "") == ["compare", "run"]
