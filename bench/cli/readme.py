"""``kdcmae-bench readme``: committed results into the documentation."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, note

if TYPE_CHECKING:
    from kdcmae.bench.report.envelope import Kind
    from kdcmae.bench.report.publishing import Section

__all__ = ["command", "sections"]

# Modules that have a part of the documentation, as SECTION, by the kind of the documents that it shows.
_MODULES: dict[Kind, str] = {
    "benchmark": "report.summary",
    "kernels": "kernels.rows",
    "accuracy": "studies.accuracy",
    "ablation": "studies.ablation.section",
    "profile": "studies.profile",
    "keep": "studies.keep",
    "memory": "studies.memory",
    "residual": "studies.residual",
}


def sections(*kinds: Kind) -> list[Section]:
    """Parts of the documentation that a command of kdcmae-bench writes.

    Args:
        kinds: of the documents that they show; all where none is named.
    """
    wanted = [_MODULES[kind] for kind in kinds or _MODULES if kind in _MODULES]
    return [import_module(f"kdcmae.bench.{module}").SECTION for module in wanted]


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
