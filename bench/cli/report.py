"""``kdcmae-bench report``: a JSON report as tables or as a page."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.report.files import write_text
from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.errors import ConfigError

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page there instead of tables.")
def command(file: Path, html: Path | None) -> None:
    """Show the JSON report FILE that any command of kdcmae-bench wrote; a page is drawn of a run of engines."""
    from kdcmae.bench.report.envelope import read_document
    from kdcmae.bench.report.page import render_page
    from kdcmae.bench.report.records import read_report
    from kdcmae.bench.report.terminal import print_blocks, print_report

    kind = read_document(file)["kind"]
    if html is not None:
        write_text(render_page(read_report(file)), html)
        note(f"{file} -> {html}")
    elif kind == "benchmark":
        print_report(read_report(file))
    else:
        from kdcmae.bench.cli.readme import sections

        shown = sections(kind)
        if not shown:
            raise ConfigError(f"{file} is a report of kind {kind!r}, which only its own command shows")
        print_blocks(shown[0].render(read_document(file)))
