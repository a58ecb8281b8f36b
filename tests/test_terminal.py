"""Plain text tables, bars and the notes of long commands."""

from __future__ import annotations

import io
import sys

import click
import pytest

from kdcmae.cli.common import Steps, note
from kdcmae.terminal import bar, progress_bar, table


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def stderr(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    """Make a stream stderr; no fixture, because pytest's capture puts its own in place after those."""
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_columns_are_as_wide_as_their_widest_cell():
    shown = table(("name", "ms"), [("a longer name", "1.5"), ("b", "10.25")], title="Times", right=(1,))
    assert click.unstyle(shown).splitlines() == [
        "Times",
        "name              ms",
        "-------------  -----",
        "a longer name    1.5",
        "b              10.25",
    ]


def test_styles_and_square_brackets_take_no_room_of_their_own():
    shown = table((), [(click.style("[x]", fg="green"), "a"), ("four", "b")])
    assert click.unstyle(shown).splitlines() == ["[x]   a", "four  b"]
    assert "\x1b[32m[x]" in shown


def test_a_table_without_rows_is_its_head():
    assert click.unstyle(table(("one", "two"), [])).splitlines() == ["one  two", "---  ---"]


def test_a_bar_shows_a_share():
    assert [bar(share, 10) for share in (0.0, 0.5, 1.0)] == ["", "#####", "##########"]


def test_the_bar_is_one_line_where_no_terminal_is(monkeypatch):
    shown = []
    for stream in (Terminal(), io.StringIO()):
        stderr(monkeypatch, stream)
        with progress_bar("clips", 2) as on_clip:
            on_clip()
            on_clip()
        shown.append(stream.getvalue())
    assert "clips" in shown[0]
    assert "2/2" in shown[0]
    assert shown[1] == "clips\n"


def test_a_note_takes_the_place_of_the_running_step(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    with Steps()("export"):
        note("a note")
    text = terminal.getvalue()
    assert text.startswith("\r\x1b[K  export ...\r\x1b[Ka note\n\r\x1b[K  export  ")
    assert text.endswith(" s\n")


def test_elsewhere_a_step_is_one_line(monkeypatch):
    stream = stderr(monkeypatch, io.StringIO())
    with Steps()("export"):
        pass
    assert stream.getvalue().startswith("  export  ")
    assert stream.getvalue().count("\n") == 1
