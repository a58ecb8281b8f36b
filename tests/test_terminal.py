"""Plain text tables, bars and the notes of long commands."""

from __future__ import annotations

import io
import sys

import pytest

from kdcmae.cli.common import Steps, note
from kdcmae.terminal import bar, progress_bar, progress_console, say, style, table


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def stderr(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    """Make a stream stderr; no fixture, because pytest's capture puts its own in place after those."""
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def plain(text: str) -> str:
    """What a pipe gets of a text."""
    pipe = io.StringIO()
    say(text, stream=pipe, end="")
    return pipe.getvalue()


def test_columns_are_as_wide_as_their_widest_cell():
    shown = table(("name", "ms"), [("a longer name", "1.5"), ("b", "10.25")], title="Times", right=(1,))
    assert plain(shown).splitlines() == [
        "Times",
        "name              ms",
        "-------------  -----",
        "a longer name    1.5",
        "b              10.25",
    ]


def test_styles_and_square_brackets_take_no_room_of_their_own():
    terminal = Terminal()
    say(table((), [(style("[x]", "green"), "a"), ("four", "b")]), stream=terminal)
    assert terminal.getvalue() == "\x1b[32m[x]\x1b[0m   a\nfour  b\n"


def test_a_table_without_rows_is_its_head():
    assert plain(table(("one", "two"), [])).splitlines() == ["one  two", "---  ---"]


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


def test_a_log_says_now_and_then_how_long_it_still_takes(monkeypatch):
    clock = iter([0, 20, 40, 60, 80, 100]).__next__
    log = stderr(monkeypatch, io.StringIO())
    with progress_bar("clips", 5, clock=clock) as on_clip:
        for _ in range(5):
            on_clip()
    assert log.getvalue().splitlines() == ["clips", "clips: 2 of 5, 1.0 min left", "clips: 4 of 5, 0.3 min left"]


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


HOSTILE = "dog\x1b[31m\x1b]0;title\x07\r\x9b2J\u202e\u2028cat"
SHOWN = "dog\\x1b[31m\\x1b]0;title\\x07\\r\\x9b2J\\u202e\\u2028cat"


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_no_control_character_gets_through(kind):
    stream = kind()
    say(HOSTILE, stream=stream)
    assert stream.getvalue() == f"{SHOWN}\n"


def test_notes_and_tables_show_control_characters_as_escapes(monkeypatch):
    terminal = stderr(monkeypatch, Terminal())
    note(f"\n{HOSTILE}\nerror: none")
    assert terminal.getvalue() == f"\r\x1b[K\n{SHOWN}\\nerror: none\n"
    lines = plain(table(("a\nb", "score"), [(HOSTILE, "0.5"), ("two\nlines", "0.4")])).splitlines()
    assert lines[0].startswith("a\\nb")
    second = "two\\nlines".ljust(len(SHOWN))
    assert lines[2:] == [f"{SHOWN}  0.5", f"{second}  0.4"]


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "5 ± 1 · café 犬 \\udcff"),
        ("latin-1", "5 ± 1 · café \\u72ac \\udcff"),
        ("ascii", "5 +/- 1 - caf\\xe9 \\u72ac \\udcff"),
    ],
)
def test_a_stream_gets_characters_that_it_has(encoding, shown, monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "1")  # this test's own locale may be C
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    say("5 ± 1 · café 犬 \udcff", stream=stream)
    assert stream.buffer.getvalue().decode(encoding) == f"{shown}\n"


def test_the_locale_c_gets_plain_characters(monkeypatch):
    for name in ("PYTHONUTF8", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("locale.setlocale", lambda category: "C")
    assert plain("5 ± 1") == "5 +/- 1"
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    assert plain("5 ± 1") == "5 ± 1"


def test_a_program_that_runs_commands_sets_where_notes_go(capsys):
    elsewhere = io.StringIO()
    progress_console.file = elsewhere
    try:
        note("built")
    finally:
        progress_console.file = None
    assert (elsewhere.getvalue(), capsys.readouterr().err) == ("built\n", "")
    note("again")
    assert capsys.readouterr().err == "again\n"
