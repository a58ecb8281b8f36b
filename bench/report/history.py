"""Committed results: one folder per machine, one numbered JSON file per run, the newest also as a page."""

from __future__ import annotations

import re
from pathlib import Path

from kdcmae.bench.report.envelope import Kind, read_document
from kdcmae.bench.report.files import RESULTS, write_json, write_text
from kdcmae.bench.report.page import render_page
from kdcmae.bench.report.publishing import Document
from kdcmae.bench.report.records import Report
from kdcmae.errors import DataError

__all__ = ["ALL", "last_reports", "store_report", "stored_documents"]

ALL = "all"
"""Folder, in that of results, for the runs of ``suite --all``; tables and comparisons of other runs leave them out."""

_NUMBERED = re.compile(r"(\d{4})-.*\.json")


def store_report(report: Report, results: Path = RESULTS) -> Path:
    """Add a report to the history and draw its page.

    Returns:
        The JSON file.
    """
    folder = results / report.machine_slug
    number = max((int(match[1]) for match in map(_numbered, _files(folder)) if match), default=0) + 1
    commit = (report.environment["git_commit"] or "unknown")[:7]
    path = folder / f"{number:04}-{report.created[:10]}-{commit}.json"
    write_json(report.to_dict(), path)
    write_text(render_page(report), results / f"{folder.name}.html")
    return path


def last_reports(results: Path = RESULTS) -> tuple[Path, Path]:
    """The last two runs of the machine that ran last.

    Raises:
        DataError: there are no two.
    """
    for folder in sorted(_folders(results), key=lambda folder: _files(folder)[-1].stat().st_mtime, reverse=True):
        files = _files(folder)
        if len(files) >= 2:
            return files[-2], files[-1]
    raise DataError(f"{results} holds no two runs of one machine; run the suite twice, or name two reports")


def stored_documents(results: Path = RESULTS) -> dict[Kind, list[Document]]:
    """Committed documents by kind, the newest last; of the suite's runs the newest of every machine.

    Raises:
        DataError: a file is not a document of this version.
    """
    stored: dict[Kind, list[Document]] = {"benchmark": [_newest(folder) for folder in _folders(results)]}
    studies = [read_document(path) for path in sorted(results.glob("*.json"))]
    for document in sorted(studies, key=lambda document: str(document["created"])):
        if document["kind"] != "benchmark":  # a run of some subjects is none of the suite
            stored.setdefault(document["kind"], []).append(document)
    return stored


def _newest(folder: Path) -> Document:
    return read_document(_files(folder)[-1], "benchmark")


def _folders(results: Path) -> list[Path]:
    return sorted(folder for folder in results.glob("*") if folder.is_dir() and _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if _numbered(path))


def _numbered(path: Path) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(path.name)
