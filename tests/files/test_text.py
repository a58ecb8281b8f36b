from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae.errors import DataError
from kdcmae.files.text import name_of, read_json, read_json_lines, read_table, read_text, without_line_breaks

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
ENDS = ("\n", "\r\n", "\r")
# What an editor can save; carriage returns are line ends whatever they were meant to be.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r\ufeff"), max_size=12)


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@settings(max_examples=60)
@given(lines=st.lists(TEXT.filter(lambda text: "\n" not in text), min_size=1, max_size=6),
       encoding=st.sampled_from(ENCODINGS), end=st.sampled_from(ENDS))  # fmt: skip
def test_encoding_and_line_ends_change_nothing(lines: list[str], encoding: str, end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "a.txt", end.join(lines).encode(encoding))
        assert read_text(path).split("\n") == lines


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=5), separator=st.sampled_from(",;\t"),
       encoding=st.sampled_from(ENCODINGS), end=st.sampled_from(("\n", "\r\n")))  # fmt: skip
def test_a_table_is_what_the_spreadsheet_showed(
    rows: list[tuple[str, str]], separator: str, encoding: str, end: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    writer.writerow((" Path", "labels "))
    writer.writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        table = read_table(written(Path(folder) / "a.csv", text.getvalue().encode(encoding)))
        found = [tuple(fields.values()) for _, fields in table.rows]
    assert table.columns == ("path", "labels")
    assert found == [(a.strip(), b.strip()) for a, b in rows if (a + b).strip()]


def test_rows_know_where_they_begin(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'sep=;\nname;note\na;"two\nlines"\n;\n\nb\n')
    table = read_table(path)
    assert list(table.rows) == [
        (f"{path}: line 3", {"name": "a", "note": "two\nlines"}),
        (f"{path}: line 7", {"name": "b", "note": None}),
    ]


def test_a_table_with_one_column_and_blank_cells_at_the_end(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "a.csv", "path\na.mp4,,\n"))
    assert [dict(fields) for _, fields in table.rows] == [{"path": "a.mp4"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n\xe9,x\n", r"line 2: cannot be read as UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        (b"\xff\xfea\0b", r"line 1: cannot be read as UTF-16"),
        ("a,b\nx,y\0\n", r"line 2: holds a NUL character"),
        ("a,b\n".encode("utf-16-le"), r"line 1: holds a NUL character.*without a byte order mark"),
        ("", r"line 1: is empty"),
        ("a, A\n", r"line 1: column a occurs twice"),
        ("a,b\nx,y,z\n", r"line 2: has more columns than the header"),
        ('a,b\nx,"y\n', r"line 2: is not CSV"),
        ('a,b\n"x"y,z\n', r"line 2: is not CSV"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(content: bytes | str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(read_table(written(tmp_path / "a.csv", content)).rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a"\n', r"line 2: is not JSON"),
        ("[" * 100_000, r"line 1: is nested too deep"),
        ("9" * 10_000, r"line 1: is not JSON: .*digits"),
    ],
)
def test_json_that_cannot_be_read(content: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_json_lines(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError):
        read_json(path)


def test_json_lines_may_hold_any_line_break_but_a_line_feed(tmp_path: Path) -> None:
    values = ["a\u2028b", "a\x85b", "a\x0cb"]
    text = "\n\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    path = written(tmp_path / "a.jsonl", "\ufeff" + text)
    assert list(read_json_lines(path)) == [(f"{path}: line {2 * i + 1}", value) for i, value in enumerate(values)]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)


def test_one_line() -> None:
    assert without_line_breaks(" a \r\n\x85 b\x0cc\u2028") == "a b c"
    assert without_line_breaks("\n") == ""


def test_the_name_of_a_file_is_text() -> None:
    assert name_of(Path("folder") / os.fsdecode(b"caf\xe9.csv")) == "caf\\xe9.csv"
    assert name_of("folder/été.csv") == "été.csv"
