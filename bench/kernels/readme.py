"""The README's kernel tables, from the newest results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcmae.bench.kernels.rows import HEADINGS, comparison_rows, machine_line
from kdcmae.bench.kernels.schema import SCHEMA_VERSION
from kdcmae.errors import ConfigError, DataError

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
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ConfigError(f"{readme} needs the lines '{BEGIN}' and '{END}' once each, in this order")
    tables = render([_read(path) for path in sorted(results.glob("kernels-*.json"))])
    updated = f"{before}{BEGIN}\n{tables}{END}{after}"
    if updated != text:
        readme.write_text(updated, encoding="utf-8")
    return updated != text


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
    return "\n" + "\n\n".join(parts) + "\n\n"


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    yield machine_line(report)
    yield ""
    yield _row(HEADINGS)
    yield _row(["---"] * len(HEADINGS))
    for case in report["cases"]:
        yield from map(_row, comparison_rows(case))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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
