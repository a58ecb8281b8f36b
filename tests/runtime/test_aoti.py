"""Where torch unpacks packages to; what it makes of them is proven by tests/compile/test_targets_aoti.py."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdcmae.errors import EngineError
from kdcmae.runtime import aoti


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in aoti._TEMPORARY:
        monkeypatch.delenv(name, raising=False)


def test_a_library_without_metadata_has_no_version() -> None:
    assert aoti.AOTIBackend.library_version("a file that takes the place of torch", install="torch") == ""


@pytest.mark.parametrize("variable", aoti._TEMPORARY)
def test_a_folder_that_is_not_there_is_said(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match=f"into {tmp_path}/nowhere, which does not exist; set {variable} to a folder"):
        aoti.require_scratch()
    (tmp_path / "nowhere").touch()
    with pytest.raises(EngineError, match="which is not a folder"):
        aoti.require_scratch()
    (tmp_path / "nowhere").unlink()
    (tmp_path / "nowhere").mkdir()
    aoti.require_scratch(1000)


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EngineError, match="which cannot be written to; set TMPDIR"):
        aoti.require_scratch()


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"f_flag": os.ST_NOEXEC}, r"is mounted without the right to execute \(noexec\)"),
        ({"f_bavail": 2000}, r"has 2\.0 MB left where 3\.0 MB are needed"),
    ],
)
def test_a_disk_that_does_not_do_is_said(
    found: dict[str, int], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    facts = SimpleNamespace(**{"f_flag": 0, "f_bavail": 10**6, "f_frsize": 1000, **found})
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    with pytest.raises(EngineError, match=f"which {problem}; set TMPDIR"):
        aoti.require_scratch(3_000_000)


def test_what_has_to_fit_is_the_package_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("code", bytes(10_000))
        archive.writestr("weights", bytes(5_000))
    assert aoti._unpacked_size_bytes(tmp_path / "model.pt2") == 15_000
    (tmp_path / "model.pt2").write_bytes(b"damaged")
    assert aoti._unpacked_size_bytes(tmp_path / "model.pt2") == 0
