from __future__ import annotations

from pathlib import Path

import pytest

from kdcmae.bench.report.rendering import render_markdown, replace_between
from kdcmae.bench.report.table import Column, table
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
    with pytest.raises(ConfigError, match=r"missing\.md does not exist"):
        replace_between(tmp_path / "missing.md", "<!-- a -->", "<!-- b -->", "new")


def test_paragraphs_and_tables_stand_apart_and_a_bar_in_a_cell_does_not_end_it() -> None:
    columns = (
        Column(title="name", value=lambda item: item["name"], align="left"),
        Column(title="size", unit="MB", value=lambda item: item.get("size"), text=lambda size: f"{size:.1f}"),
    )
    shown = table("sizes", columns, [{"name": "b | c", "size": 2.04}, {"name": "unknown"}])
    assert render_markdown(["before", shown, "after"]).split("\n") == [
        "before",
        "",
        "sizes:",
        "",
        "| name | size, MB |",
        "| --- | ---: |",
        "| b \\| c | 2.0 |",
        "| unknown | - |",
        "",
        "after",
    ]
