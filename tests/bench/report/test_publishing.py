"""Committed results in the documentation: every table whose markers a file has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from reports import ENVIRONMENT, full_report

from kdcmae.bench.cli import main
from kdcmae.bench.cli.documents import sections
from kdcmae.bench.report.files import RESULTS
from kdcmae.bench.report.history import store_report, stored_documents
from kdcmae.bench.report.publishing import Section, default_file
from kdcmae.bench.report.table import Block

SECTIONS = {section.name: section for section in sections()}
ROOT = Path(__file__).resolve().parents[3]


def readme(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["readme", *map(str, arguments)])


def page(folder: Path, *names: str) -> Path:
    path = folder / "page.md"
    parts = (f"{SECTIONS[name].begin}\nold {name}\n{SECTIONS[name].end}\n" for name in names)
    path.write_text("before\n" + "".join(parts), encoding="utf-8")
    return path


def test_a_page_gets_the_tables_that_there_are_results_for_and_keeps_the_others(tmp_path: Path) -> None:
    file = page(tmp_path, "suite benchmark", "accuracy")
    store_report(full_report(), tmp_path / "results")
    first, second = (readme(file, "--results", tmp_path / "results") for _ in range(2))
    assert (first.stderr, second.stderr) == (f"{file}: updated\n", f"{file}: up to date\n")
    text = file.read_text()
    assert "| OpenVINO int8 | bf16 | 225" in text
    assert "old suite" not in text
    assert "old accuracy" in text


def test_a_folder_without_results_is_refused_in_one_line_and_nothing_is_emptied(tmp_path: Path) -> None:
    file = page(tmp_path, *SECTIONS)
    before = file.read_text()
    result = readme(file, "--results", tmp_path / "empty")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "empty has no results for" in result.stderr
    assert file.read_text() == before


def test_a_file_without_markers_is_refused(tmp_path: Path) -> None:
    file = page(tmp_path)
    result = readme(file, "--results", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "has no markers" in result.stderr


def test_a_document_that_lacks_what_its_kind_has_is_refused_in_one_line(tmp_path: Path) -> None:
    stamp = {"schema_version": 5, "kdcmae_version": "0.1.0", "created": "2026-07-01", "environment": ENVIRONMENT}
    (tmp_path / "accuracy.json").write_text(json.dumps({**stamp, "kind": "accuracy", "rows": [{"use": "both"}]}))
    result = readme(page(tmp_path, "accuracy"), "--results", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "a report of kind 'accuracy' cannot be shown: no 'name'" in result.stderr


def test_the_page_of_measured_figures_is_the_default_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_file() == Path("README.md")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "measured.md").touch()
    assert default_file() == Path("docs/measured.md")


def test_every_committed_document_is_read_and_shown() -> None:
    stored = stored_documents(ROOT / RESULTS)
    assert stored.keys() == {"benchmark", "kernels", "ablation", "accuracy", "keep", "memory", "profile"}
    for section in SECTIONS.values():
        if section.kind in stored:
            assert any(not isinstance(block, str) for block in section.render(*stored[section.kind]))


def test_the_committed_page_shows_the_committed_results(tmp_path: Path) -> None:
    copy = tmp_path / "measured.md"
    copy.write_bytes((ROOT / "docs" / "measured.md").read_bytes())
    assert readme(copy, "--results", ROOT / RESULTS).stderr == f"{copy}: up to date\n"


def test_a_report_of_a_study_is_shown_again() -> None:
    result = CliRunner().invoke(main, ["report", str(ROOT / RESULTS / "memory-base.json")])
    assert result.exit_code == 0, result.output
    assert "without mapped files" in result.stdout


def test_the_markers_keep_their_form() -> None:
    def blocks(documents: object) -> list[Block]:
        return []

    section = Section(name="token keep", command="keep", kind="keep", blocks=blocks)
    assert section.begin == "<!-- token keep: written by `kdcmae-bench keep` -->"
    assert section.end == "<!-- end of token keep -->"
