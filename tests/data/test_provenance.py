from __future__ import annotations

from pathlib import Path

import pytest

from kdcmae.data.provenance import Sources
from kdcmae.errors import DiskFullError


def test_the_last_line_of_an_item_counts(tmp_path: Path) -> None:
    path, source = tmp_path / "sources.jsonl", {"bytes": 1}
    with Sources(path, {"size": 8}) as sources:
        sources.begin("a")
        assert "a" not in sources  # it has no files that could be mixed
        for item in "ab":
            sources.add(item, source)
        sources.begin("b")
    read = Sources(path, {"size": 8})
    assert [read.current(item, source) for item in "ab"] == [True, False]
    assert "b" in read
    assert not Sources(path, {"size": 9}).current("a", source)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line() -> None:
    with (
        pytest.raises(DiskFullError, match=r"^/dev/full: no space left"),
        Sources(Path("/dev/full"), {}) as sources,
    ):
        sources.add("a", {"bytes": 1})
