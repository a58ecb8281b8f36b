"""``kdcmae-bench compare``: regressions of speed and accuracy between two reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcmae.bench.report.files import RESULTS
from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.errors import ConfigError
from kdcmae.terminal import say, style, table

if TYPE_CHECKING:
    from kdcmae.bench.report.comparison import Change, Comparison

__all__ = ["command"]

_COLOURS = {"slower": "red", "less accurate": "red", "lost": "red", "unstable": "yellow", "faster": "green"}
_REPORT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=KdcmaeCommand)
@click.argument("old", type=_REPORT, required=False)
@click.argument("new", type=_REPORT, required=False)
@click.option("--all", "everything", is_flag=True, help="The last two runs of the suite with --all.")
@json_option
def command(old: Path | None, new: Path | None, everything: bool, as_json: bool) -> None:
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
    middle, low, high = change.ratio or (None, None, None)
    return (
        str(change.case),
        f"{middle:.3f}" if middle is not None else "-",
        f"{low:.3f}-{high:.3f}" if low is not None else "-",
        f"{style(change.outcome, _COLOURS.get(change.outcome, ''))} {change.reason}",
    )
