from __future__ import annotations

import sys
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from kdcmae.cli.common import LazyGroup


@click.command()
@click.argument("subjects", nargs=-1)
@click.option("--batch", type=int)
def run(subjects, batch):
    """Run subjects."""
    click.echo(f"run {subjects} {batch}")


@click.command()
def compare():
    """Compare two reports."""
    click.echo("compare")


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
    assert "compare  Compare two reports." in text
    assert "A tool." in output(group(), "--help")
