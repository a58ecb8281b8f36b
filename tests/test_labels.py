from __future__ import annotations

import pytest

from kdcmae.errors import DataError
from kdcmae.labels import read_labels


def test_text_and_csv(tmp_path):
    text, table = tmp_path / "labels.txt", tmp_path / "labels.csv"
    text.write_text("dog\nrain\n\n")
    table.write_text('index,mid,display_name\n1,/m/b,"Rain, heavy"\n0,/m/a,Dog\n')
    assert read_labels(text) == ("dog", "rain")
    assert read_labels(table) == ("Dog", "Rain, heavy")


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "index,display_name\nx,Dog\n"])
def test_a_csv_of_something_else(content, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(content)
    with pytest.raises(DataError, match="index,mid,display_name"):
        read_labels(table)


def test_unreadable(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read labels"):
        read_labels(tmp_path / "binary.txt")
