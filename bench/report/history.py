"""Committed results: one folder per machine, one numbered JSON file per run, the newest also as a page."""

from __future__ import annotations

import re
from pathlib import Path

from kdcmae.bench.report.files import RESULTS, write_json, write_text
from kdcmae.bench.report.page import render_page
from kdcmae.bench.report.records import Report, read_report
from kdcmae.errors import DataError

__all__ = ["ALL", "keep_report", "last_reports", "machine_slug", "newest_reports"]

ALL = "all"
"""In the folder of results, that of the runs of ``suite --all``, which neither the README's tables nor a comparison of
other runs see."""

_NUMBERED = re.compile(r"(\d{4})-.*\.json")


def machine_slug(report: Report) -> str:
    """A folder's name for the machine of a report."""
    host = report.environment["host"]
    told = f"{host['cpu'] or host['machine']} {report.environment['usable_cpus']} cpus"
    return re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")


def keep_report(report: Report, results: Path = RESULTS) -> Path:
    """Add a report to the history and draw its page.

    Args:
        report: of a run.
        results: the folder of all machines.

    Returns:
        The JSON file.
    """
    folder = results / machine_slug(report)
    number = max((int(found[1]) for found in map(_numbered, _files(folder)) if found), default=0) + 1
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


def newest_reports(results: Path = RESULTS) -> list[Report]:
    """The newest run of every machine."""
    return [read_report(_files(folder)[-1]) for folder in _folders(results)]


def _folders(results: Path) -> list[Path]:
    return sorted(folder for folder in results.glob("*") if folder.is_dir() and _files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if _numbered(path))


def _numbered(path: Path) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(path.name)
