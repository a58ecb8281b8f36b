"""``kdcmae-bench readme``: committed results into the README."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, note

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=Path("docs/measured.md"))
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Where kernels-*.json and the suite's folders lie.",
)
def command(file: Path, results: Path) -> None:
    """Write the newest results of the suite and of the kernels into a page, each between its two markers."""
    from kdcmae.bench.kernels.readme import update_readme
    from kdcmae.bench.report.history import newest_reports
    from kdcmae.bench.report.readme import update_suite

    changed = [update_readme(file, results), update_suite(file, newest_reports(results))]
    note(f"{file}: {'updated' if any(changed) else 'up to date'}")
