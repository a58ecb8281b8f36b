from __future__ import annotations

from pathlib import Path

import pytest

from kdcmae.bench.report.markers import replace_between, table_row
from kdcmae.errors import ConfigError


def test_only_what_lies_between_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")
    assert replace_between(path, "<!-- a -->", "<!-- b -->", "new\n")
    assert path.read_text() == "before\n<!-- a -->\n\nnew\n\n<!-- b -->\nafter\n"
    assert not replace_between(path, "<!-- a -->", "<!-- b -->", "new")


@pytest.mark.parametrize("text", ["none", "<!-- b --><!-- a -->", "<!-- a --><!-- a --><!-- b -->", "<!-- a -->"])
def test_markers_have_to_be_there_once_each(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match="once each"):
        replace_between(path, "<!-- a -->", "<!-- b -->", "new")
    assert path.read_text() == text


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table_row(["a", "b | c"]) == "| a | b \\| c |"
