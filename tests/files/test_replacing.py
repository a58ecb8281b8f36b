from __future__ import annotations

import os

import pytest

from kdcmae.files.replacing import replacing


def write(path, text):
    with replacing(path) as partial:
        partial.write_text(text)


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "file.json"
    write(path, "old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == ".json"  # libraries choose a format by it
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_has_the_mode_of_any_new_file_whatever_a_library_gives_it(mask, tmp_path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "private") as partial:
            partial.touch(mode=0o600)
        write(tmp_path / "usual", "new")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "private": 0o666 & ~mask,
        "usual": 0o666 & ~mask,
    }


def fail(path):
    with replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError("boom")


def test_nothing_remains_of_a_failure(tmp_path):
    write(tmp_path / "file", "old")
    with pytest.raises(RuntimeError, match="boom"):
        fail(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_writers_of_one_process_do_not_meet(tmp_path):
    with replacing(tmp_path / "file") as first:
        first.write_text("first")
        write(tmp_path / "file", "second")
        assert first.read_text() == "first"
    assert (tmp_path / "file").read_text() == "first"


def test_the_longest_name_and_one_that_is_no_text_do(tmp_path):
    for name in ("n" * 255, os.fsdecode(b"\xff.txt")):
        write(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_no_source_names_anything_by_a_process_id_or_asks_whether_a_process_lives():
    """In containers every process may have the id 1, and another container's are not among the processes here."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    sources = [path for folder in ("kdcmae", "compile", "bench", "kernels") for path in (root / folder).rglob("*.py")]
    assert len(sources) > 100
    for words in ("getpid()", "os.kill("):
        assert [path for path in sources if words in path.read_text(encoding="utf-8")] == []
