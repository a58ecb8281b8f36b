"""What shows measured results: ``kdcmae-bench report``, ``compare``, ``readme`` and ``fleet``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcmae.bench.report.files import RESULTS, write_text
from kdcmae.cli.common import KdcmaeCommand, json_option, note, print_json
from kdcmae.errors import ConfigError
from kdcmae.terminal import say, style, table

if TYPE_CHECKING:
    from kdcmae.bench.report.comparison import Change, Comparison
    from kdcmae.bench.report.envelope import Kind
    from kdcmae.bench.report.publishing import Section

__all__ = ["compare", "fleet", "readme", "report", "sections"]

# Modules that have a part of the documentation, as SECTION, by the kind of the documents that it shows.
_SECTIONS: dict[Kind, str] = {
    "benchmark": "report.summary",
    "kernels": "kernels.report",
    "accuracy": "studies.accuracy",
    "ablation": "studies.ablation.section",
    "profile": "studies.profile",
    "keep": "studies.keep",
    "memory": "studies.memory",
    "residual": "studies.residual",
    "throughput": "studies.throughput",
}
_COLOURS = {"slower": "red", "less accurate": "red", "lost": "red", "unstable": "yellow", "faster": "green"}
_REPORT = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


def sections(*kinds: Kind) -> list[Section]:
    """Parts of the documentation that a command of kdcmae-bench writes.

    Args:
        kinds: of the documents that they show; all where none is named.
    """
    wanted = [_SECTIONS[kind] for kind in kinds or _SECTIONS if kind in _SECTIONS]
    return [import_module(f"kdcmae.bench.{module}").SECTION for module in wanted]


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=_REPORT)
@click.option("--html", type=_FILE, help="Write a page there instead of tables.")
def report(file: Path, html: Path | None) -> None:
    """Show the JSON report FILE that any command of kdcmae-bench wrote; a page is drawn of a run of engines."""
    from kdcmae.bench.report.envelope import read_document
    from kdcmae.bench.report.page import render_page
    from kdcmae.bench.report.records import read_report
    from kdcmae.bench.report.rendering import print_blocks
    from kdcmae.bench.report.summary import blocks

    kind = read_document(file)["kind"]
    if html is not None:
        write_text(render_page(read_report(file)), html)
        note(f"{file} -> {html}")
    elif kind == "benchmark":
        print_blocks(blocks(read_report(file)))
    elif shown := sections(kind):
        print_blocks(shown[0].render(read_document(file)))
    else:
        raise ConfigError(f"{file} is a report of kind {kind!r}, which only its own command shows")


@click.command(cls=KdcmaeCommand)
@click.argument("old", type=_REPORT, required=False)
@click.argument("new", type=_REPORT, required=False)
@click.option("--all", "everything", is_flag=True, help="The last two runs of the suite with --all.")
@json_option
def compare(old: Path | None, new: Path | None, everything: bool, as_json: bool) -> None:
    """Find regressions between two reports of one machine: by default the last two of the suite.

    A case is slower where the interval of new latency over old lies above 1. It comes from a bootstrap over both
    runs' windows, widened by what two runs of the same thing may differ, and strict enough that all cases together
    raise a false alarm in one comparison of twenty. Cases that were unstable in a run are not judged.

    Exit code: 1 where a case became slower, less accurate, or was lost.
    """
    from kdcmae.bench.report.comparison import compare_reports
    from kdcmae.bench.report.history import ALL, last_reports
    from kdcmae.bench.report.records import read_report

    if (old is None) is not (new is None):
        raise ConfigError("give two reports, or none for the last two of the suite")
    if everything and old is not None:
        raise ConfigError("give either two reports or --all, not both")
    runs = RESULTS / ALL if everything else RESULTS
    before, after = (old, new) if old is not None and new is not None else last_reports(runs)
    comparison = compare_reports(read_report(before), read_report(after))
    if as_json:
        print_json(comparison.to_dict())
    else:
        say(f"{before} -> {after}")
        _print(comparison)
    raise SystemExit(comparison.exit_code)


def _print(comparison: Comparison) -> None:
    say(table(("case", "new over old", "interval", "outcome"), map(_row, comparison.changes)))
    judged = sum(change.outcome not in ("unstable", "lost") for change in comparison.changes)
    agreeing, stable = comparison.agreeing
    say(f"{agreeing} of {stable} stable rows agree within their intervals")
    say(f"{len(comparison.regressions)} regressions; {judged} of {len(comparison.changes)} cases could be judged")


def _row(change: Change) -> tuple[str, ...]:
    ratio = (f"{change.ratio[0]:.3f}", f"{change.ratio[1]:.3f}-{change.ratio[2]:.3f}") if change.ratio else ("-", "-")
    return (str(change.case), *ratio, f"{style(change.outcome, _COLOURS.get(change.outcome, ''))} {change.reason}")


@click.command(cls=KdcmaeCommand)
@click.argument("file", type=_REPORT, required=False)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder of the JSON reports and of the suite's folders.",
)
def readme(file: Path | None, results: Path) -> None:
    """Write the newest results into FILE: every table whose markers it has.

    FILE is docs/measured.md by default, or README.md where there is no such page. Tables without results stay.
    """
    from kdcmae.bench.report.history import stored_documents
    from kdcmae.bench.report.publishing import default_file, publish_all

    file = file or default_file()
    changed = publish_all(file, sections(), stored_documents(results), results)
    note(f"{file}: {'updated' if changed else 'up to date'}")


@click.command(cls=KdcmaeCommand)
@click.argument("cards", metavar="CARD...", nargs=-1, required=True, type=_FILE)
@click.option("--html", type=_FILE, help="Also write a self-contained page there.")
@json_option
def fleet(cards: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Put device cards side by side: which engine runs in what precision, how fast and how exactly on which device.

    A CARD is what kdcmae check ENGINE --json wrote on a device.

    \b
    kdcmae check out/ov --json > nuc.json            # there
    kdcmae-bench fleet *.json --html fleet.html      # here
    """
    from kdcmae.bench.report.rendering import print_blocks
    from kdcmae.bench.studies.fleet import fleet_conditions, fleet_document, fleet_tables, read_card, render_fleet

    read = [read_card(path) for path in cards]
    if as_json:
        print_json(fleet_document(read))
    else:
        print_blocks([*fleet_conditions(read), *fleet_tables(read)])
    if html is not None:
        write_text(render_fleet(read), html)
        note(f"{len(read)} cards -> {html}")
