"""The README's kernel tables, from the newest results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcmae.bench.kernels.rows import HEADINGS, comparison_rows, machine_line
from kdcmae.bench.kernels.schema import SCHEMA_VERSION
from kdcmae.bench.report.markers import replace_between, table_row
from kdcmae.errors import DataError

__all__ = ["BEGIN", "END", "NOT_MEASURED", "render", "update_readme"]

BEGIN = "<!-- kernel benchmark: written by `kdcmae-bench readme` -->"
END = "<!-- end of kernel benchmark -->"
NOT_MEASURED = "not measured on a GPU yet"


def update_readme(readme: Path, results: Path) -> bool:
    """Rewrite what lies between the two markers.

    Args:
        readme: a Markdown file with the markers :data:`BEGIN` and :data:`END`.
        results: folder of ``kernels-*.json``.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: the markers are not there once each, in order.
        DataError: a results file cannot be read.
    """
    tables = render([_read(path) for path in sorted(results.glob("kernels-*.json"))])
    return replace_between(readme, BEGIN, END, tables)


def render(reports: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the newest report of a GPU and of the newest of a CPU.

    Args:
        reports: as JSON, in any order; dry runs are left out.
    """
    newest = {
        report["device"]["type"]: report
        for report in sorted(reports, key=lambda report: report["created"])
        if not report["settings"]["quick"]
    }
    parts = ["\n".join(_table(newest["cuda"])) if "cuda" in newest else f"The kernels are {NOT_MEASURED}."]
    if "cpu" in newest:
        parts.append("\n".join(_table(newest["cpu"])))
    return "\n\n".join(parts)


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    yield machine_line(report)
    yield ""
    yield table_row(HEADINGS)
    yield table_row(["---"] * len(HEADINGS))
    for case in report["cases"]:
        yield from map(table_row, comparison_rows(case))


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; measure again with kdcmae-bench kernels") from error
    if report.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {report.get('schema_version')!r}, not {SCHEMA_VERSION}; measure again with "
            "kdcmae-bench kernels"
        )
    return report
