"""``kdcmae-bench report``: a report again, as tables or as a page."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.report.files import write_text
from kdcmae.cli.common import KdcmaeCommand, note

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page there instead of tables.")
def command(file: Path, html: Path | None) -> None:
    """Show the JSON report FILE that another run wrote."""
    from kdcmae.bench.report.page import render_page
    from kdcmae.bench.report.records import read_report
    from kdcmae.bench.report.terminal import print_report

    report = read_report(file)
    if html is None:
        print_report(report)
        return
    write_text(render_page(report), html)
    note(f"{file} -> {html}")
