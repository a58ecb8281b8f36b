"""``kdcmae-bench fleet``: engines on several devices, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.bench.report.files import write_text
from kdcmae.cli.common import KdcmaeCommand, json_option, note, print_json

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("cards", metavar="CARD...", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a self-contained page there.")
@json_option
def command(cards: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Put device cards side by side: which engine runs in what precision, how fast and how exactly on which device.

    A CARD is what kdcmae check ENGINE --json wrote on a device.

    \b
    kdcmae check out/ov --json > nuc.json            # there
    kdcmae-bench fleet *.json --html fleet.html      # here
    """
    from kdcmae.bench.report.terminal import print_blocks
    from kdcmae.bench.studies.fleet import fleet_conditions, fleet_document, fleet_tables, read_card, render_fleet

    read = [read_card(path) for path in cards]
    if as_json:
        print_json(fleet_document(read))
    else:
        print_blocks([*fleet_conditions(read), *fleet_tables(read)])
    if html is not None:
        write_text(render_fleet(read), html)
        note(f"{len(read)} cards -> {html}")
