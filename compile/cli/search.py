"""``kdcmae-compile --budget-ms``: the most accurate engine that meets a latency budget on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae import host
from kdcmae.cli.common import Steps, note, print_json
from kdcmae.compile.cli.engine import given
from kdcmae.compile.cli.model import load_model
from kdcmae.errors import ConfigError, GateError
from kdcmae.terminal import say, table

if TYPE_CHECKING:
    from kdcmae.compile.search import Trial
    from kdcmae.compile.settings import CompileSettings

__all__ = ["search"]

# What the search finds, or cannot vary.
_NOT_WITH_A_BUDGET = ("precision", "keep", "batch", "device", "modalities", "execute_as")


def search(
    settings: CompileSettings, budget_ms: float, output: Path | None, model_options: dict[str, Any], *, as_json: bool
) -> None:
    """Search, publish the winner, and print what was tried.

    Args:
        settings: of every build; the precision is the search's.
        budget_ms: what nine in ten inferences may take at most.
        output: where the engine goes; ``out/<target>-searched`` where None.
        model_options: what :func:`load_model` takes.
        as_json: print one JSON object.

    Raises:
        ConfigError: an option was given that the search decides.
        GateError: nothing fits; the nearest candidate is named.
    """
    _require_free()
    step = Steps()
    with step("load PyTorch"):
        from kdcmae.compile.search import Search, SearchSettings
    cpus = host.usable_cpus()
    max_drop = settings.quantization.max_drop
    wanted = SearchSettings(
        build=settings,
        budget_ms=budget_ms,
        max_drop=1.0 if max_drop is None else max_drop,
        threads=tuple(sorted({1, max(1, cpus // 2), cpus})),
    )
    folder = output or Path("out") / f"{settings.target}-searched"
    note(f"kdcmae-compile: {settings.target} in {budget_ms:g} ms, at most {wanted.max_drop:g} points lost -> {folder}")
    found = Search(lambda keep: load_model(**{**model_options, "keep": keep}), wanted, step)
    try:
        found.run(folder)
    except GateError:
        _show(found.trials, as_json, partial(dict, engine=None))
        raise
    _show(found.trials, as_json, partial(dict, engine=str(folder), threads=found.trials[-1].threads))


def _require_free() -> None:
    """Refuse options that would be passed over in silence."""
    for option in given(*_NOT_WITH_A_BUDGET):
        raise ConfigError(f"{option} is for one engine, and --budget-ms searches many: leave one of them out")


def _show(trials: Sequence[Trial], as_json: bool, facts: Any) -> None:
    if as_json:
        print_json(facts(trials=[dataclasses.asdict(trial) for trial in trials]))
        return
    head = ("precision", "tokens", "p90 ms by threads", "drop, points", "result")
    say(table(head, map(_row, trials), title="Candidates, the most accurate first"))


def _row(trial: Trial) -> tuple[str, ...]:
    latency = ", ".join(f"{threads}: {found:.3g}" for threads, found in trial.latency_ms.items())
    drop = "-" if trial.drop is None else f"{trial.drop:.1f}"
    result = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
    return (trial.precision, f"{trial.keep:.0%}", latency or "-", drop, result)
