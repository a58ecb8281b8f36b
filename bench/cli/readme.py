"""``kdcmae-bench readme``: committed results into the documentation."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, note

if TYPE_CHECKING:
    from kdcmae.bench.report.publishing import Section

__all__ = ["command", "sections"]

# Modules that have a part of the documentation, as SECTION.
_MODULES = (
    "report.summary",
    "kernels.rows",
    "studies.accuracy",
    "studies.ablation.section",
    "studies.profile",
    "studies.keep",
    "studies.memory",
    "studies.residual",
)


def sections() -> list[Section]:
    """Every part of the documentation that a command of kdcmae-bench writes."""
    return [import_module(f"kdcmae.bench.{name}").SECTION for name in _MODULES]


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Folder of the JSON reports and of the suite's folders.",
)
def command(file: Path | None, results: Path) -> None:
    """Write the newest results into FILE: every table whose markers it has.

    FILE is docs/measured.md by default, or README.md where there is no such page. Tables without results stay.
    """
    from kdcmae.bench.report.history import stored_documents
    from kdcmae.bench.report.publishing import default_file, publish_all

    file = file or default_file()
    changed = publish_all(file, sections(), stored_documents(results), results)
    note(f"{file}: {'updated' if changed else 'up to date'}")
