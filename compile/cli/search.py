"""``kdcmae-compile --budget-ms``: the most accurate engine that meets a latency budget on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae import host
from kdcmae.cli.common import Steps, note, print_json
from kdcmae.compile.cli.model import load_model
from kdcmae.compile.preflight import require_possible
from kdcmae.compile.report.notes import accuracy_line
from kdcmae.compile.settings import CompileSettings, SearchSettings
from kdcmae.errors import GateError
from kdcmae.terminal import say, table

if TYPE_CHECKING:
    from kdcmae.compile.search import Trial

__all__ = ["search", "search_settings"]


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
    settings: SearchSettings, folder: Path, model_options: dict[str, Any], step: Steps, *, as_json: bool
) -> None:
    """Search, publish the winner, and print what was tried.

    Args:
        settings: what is wanted.
        folder: where the engine goes.
        model_options: what :func:`load_model` takes.
        step: shows progress.
        as_json: print one JSON object.

    Raises:
        GateError: nothing fits; the nearest candidate is named.
    """
    wanted = f"in {settings.budget_ms:g} ms, at most {settings.max_drop:g} points lost"
    note(f"kdcmae-compile: {settings.build.target} {wanted} -> {folder}")
    with step("load PyTorch"):
        from kdcmae.compile.search import Search
    candidates = Search(lambda keep: load_model(**{**model_options, "keep": keep}), settings, step)
    try:
        candidates.run(folder)
    except GateError:
        _show(candidates.trials, as_json, partial(dict, engine=None))
        raise
    assert candidates.accuracy is not None
    accuracy = candidates.accuracy.to_dict()
    _show(
        candidates.trials,
        as_json,
        partial(dict, engine=str(folder), threads=candidates.trials[-1].threads, accuracy=accuracy),
    )
    if not as_json:
        say(f"accuracy:  {accuracy_line(accuracy)}")


def _show(trials: Sequence[Trial], as_json: bool, facts: Any) -> None:
    if as_json:
        print_json(facts(trials=[dataclasses.asdict(trial) for trial in trials]))
        return
    head = ("precision", "tokens", "p90 ms by threads", "points lost (95 %)", "result")
    say(table(head, map(_row, trials), title="Candidates, the most accurate first"))


def _row(trial: Trial) -> tuple[str, ...]:
    latency = ", ".join(f"{threads}: {p90_ms:.3g}" for threads, p90_ms in trial.latency_ms.items())
    drop = "-"
    if trial.drop is not None and trial.interval is not None:
        drop = f"{trial.drop:.1f} ({trial.interval[0]:.1f} to {trial.interval[1]:.1f})"
    result = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
    return (trial.precision, f"{trial.keep:.0%}", latency or "-", drop, result)
