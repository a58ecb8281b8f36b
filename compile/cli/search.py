"""``kdcmae-compile --budget-ms``: the most accurate engine that meets a latency budget on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae import host
from kdcmae.cli.common import print_json
from kdcmae.compile.cli.model import load_model
from kdcmae.compile.preflight import require_possible
from kdcmae.compile.report.notes import accuracy_line
from kdcmae.compile.settings import CompileSettings, SearchSettings
from kdcmae.errors import GateError
from kdcmae.progress import Step
from kdcmae.terminal import say, table

if TYPE_CHECKING:
    from kdcmae.compile.search import Search, Trial

__all__ = ["search", "search_settings", "show_search"]


def search_settings(settings: CompileSettings, budget_ms: float) -> SearchSettings:
    """What to search on this machine.

    Args:
        settings: of every build; the precision is the search's.
        budget_ms: what nine in ten inferences may take at most.

    Raises:
        ConfigError: a target or a limit that cannot be searched.
        KdcmaeError: a candidate cannot be built here, as :func:`require_possible` says.
    """
    cpus = host.usable_cpus()
    max_drop = settings.quantization.max_drop
    searched = SearchSettings(
        build=settings,
        budget_ms=budget_ms,
        max_drop=1.0 if max_drop is None else max_drop,
        threads=tuple(sorted({1, max(1, cpus // 2), cpus})),
    )
    for precision in searched.precisions:
        require_possible(dataclasses.replace(settings, precision=precision))
    return searched


def search(
    settings: SearchSettings,
    folder: Path,
    model_options: dict[str, Any],
    step: Step,
    say_in_passing: Callable[[str], None],
    show: Callable[[Search, Path | None], None],
) -> None:
    """Search, and publish the winner.

    Args:
        model_options: what :func:`load_model` takes.
        say_in_passing: gets a line that says what is searched.
        show: gets the search and the folder when it is over; None for the folder where nothing fits.

    Raises:
        GateError: nothing fits; the nearest candidate is named.
    """
    wanted = f"in {settings.budget_ms:g} ms, at most {settings.max_drop:g} points lost"
    say_in_passing(f"kdcmae-compile: {settings.build.target} {wanted} -> {folder}")
    with step("load PyTorch"):
        from kdcmae.compile.search import Search
    candidates = Search(lambda keep: load_model(**{**model_options, "keep": keep}), settings, step)
    try:
        candidates.run(folder)
    except GateError:
        show(candidates, None)
        raise
    show(candidates, folder)


def show_search(search: Search, folder: Path | None, *, as_json: bool) -> None:
    """Print what was tried and what won.

    Args:
        folder: of the winner; None where nothing fits.
    """
    accuracy = None if folder is None or search.accuracy is None else search.accuracy.to_dict()
    if as_json:
        won = {} if accuracy is None else {"threads": search.trials[-1].threads, "accuracy": accuracy}
        trials = [dataclasses.asdict(trial) for trial in search.trials]
        print_json({"engine": None if folder is None else str(folder), **won, "trials": trials})
        return
    head = ("precision", "tokens", "p90 ms by threads", "points lost (95 %)", "result")
    say(table(head, map(_row, search.trials), title="Candidates, the most accurate first"))
    if accuracy is not None:
        say(f"accuracy:  {accuracy_line(accuracy)}")


def _row(trial: Trial) -> tuple[str, ...]:
    latency = ", ".join(f"{threads}: {p90_ms:.3g}" for threads, p90_ms in trial.latency_ms.items())
    drop = "-"
    if trial.drop is not None and trial.interval is not None:
        drop = f"{trial.drop:.1f} ({trial.interval[0]:.1f} to {trial.interval[1]:.1f})"
    result = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
    return (trial.precision, f"{trial.keep:.0%}", latency or "-", drop, result)
