from __future__ import annotations

from pathlib import Path

import pytest

from kdcmae.errors import DataError
from kdcmae.labels import read_class_names, read_labels

HEADER = "index,mid,display_name\n"


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_and_csv(tmp_path):
    text = written(tmp_path / "labels.txt", "dog\nrain\n\n")
    table = written(tmp_path / "labels.csv", HEADER + '1,/m/b,"Rain, heavy"\n0,/m/a,Dog\n')
    assert read_labels(text) == ("dog", "rain")
    assert read_labels(table) == ("Dog", "Rain, heavy")
    assert read_class_names(table).ids == ("/m/a", "/m/b")
    assert read_class_names(text).ids == ("dog", "rain")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_other_systems(encoding, tmp_path):
    text = written(tmp_path / "labels.txt", "dog\r\ncafé\r\n".encode(encoding))
    table = written(tmp_path / "labels.csv", "index;Display_Name\r\n0;dog\r\n1;café\r\n".encode(encoding))
    assert read_labels(text) == read_labels(table) == ("dog", "café")


def test_a_name_is_one_line_and_no_line_more(tmp_path):
    table = written(tmp_path / "labels.csv", HEADER + '0,/m/a,"Dog\nbarking"\n1,/m/b,Cat\n')
    assert read_labels(table) == ("Dog barking", "Cat")
    text = written(tmp_path / "labels.txt", "a\x85b\nc\x0cd\n")
    assert read_labels(text) == ("a b", "c d")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "needs the columns index,mid,display_name, and has a,b"),
        ("index,display_name\nx,Dog\n", r"line 2: index 'x' is no whole number"),
        (HEADER + "0,/m/a,A\n2,/m/b,B\n", "count from 0 without gaps: after 0 comes 2"),
        (HEADER + "5,/m/a,A\n", "count from 0 without gaps: the smallest is 5"),
        (HEADER + "1,/m/a,A\n2,/m/b,B\n", "counts from 1 to 2; it must count from 0"),
        (HEADER + "0,/m/a,A\n0,/m/b,B\n", "line 3: index 0 was used before, by 'A'"),
        (HEADER + "0,/m/a,A\n1,/m/b\n", "line 3: the class has no display_name"),
        (HEADER + "0,/m/a,A\n1,,B\n", "line 3: the class has no mid"),
        (HEADER + "0,/m/a,A\n1,/m/a,B\n", "'/m/a' stands for two classes"),
        (HEADER + "0,/m/a,A\n1,/m/b,A\n", "'A' stands for two classes"),
        (HEADER, "names no classes"),
    ],
)
def test_a_csv_that_leaves_a_doubt(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_labels(written(tmp_path / "labels.csv", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dog\n\ncat\n", "line 2: is blank, between names"),
        ("dog\ncat\ndog\n", "'dog' stands for two classes"),
        ("\n \n", "names no classes"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a\0b\n", "NUL"),
    ],
)
def test_a_text_that_leaves_a_doubt(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_labels(written(tmp_path / "labels.txt", content))


def test_absent(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "absent.txt")
