"""``kdcmae-compile search``: the most accurate engine that meets a latency budget on this machine."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from kdcmae.cli.common import KdcmaeCommand, Steps, exit_on_sigterm, json_option, note, print_json
from kdcmae.compile.cli.model import load_model, model_options
from kdcmae.errors import ConfigError, GateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdcmae.compile.search import Trial

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.option("--target", type=click.Choice(["openvino", "onnx", "aoti"]), default="openvino", show_default=True)
@model_options
@click.option("--budget-ms", type=float, required=True, help="What nine in ten inferences may take at most.")
@click.option("--max-drop", type=float, default=1.0, show_default=True, help="Percentage points of accuracy to lose.")
@click.option("--evaluation", default="avsynth:200", show_default=True, help="Held-out clips: a manifest or avsynth:N.")
@click.option("--output", type=click.Path(path_type=Path), help="Engine folder.  [default: out/<target>-searched]")
@json_option
def command(
    target: str,
    budget_ms: float,
    max_drop: float,
    evaluation: str,
    output: Path | None,
    as_json: bool,
    **model_options: Any,
) -> None:
    """Search precision, kept tokens and threads for the most accurate engine within a budget, and compile it.

    \b
    kdcmae-compile search --budget-ms 100 --max-drop 1.0
    kdcmae-compile search --checkpoint model.pth --evaluation test.jsonl --budget-ms 40

    Exit code: 1 where nothing fits; the nearest candidate is named.
    """
    exit_on_sigterm()
    if model_options.pop("keep") != 1:
        raise ConfigError("--keep is what the search finds; leave it out")
    step = Steps()
    with step("load PyTorch"):
        from kdcmae.compile.search import Search, SearchSettings
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = SearchSettings(
        target=target,
        budget_ms=budget_ms,
        max_drop=max_drop,
        evaluation=evaluation if evaluation.startswith("avsynth") else Path(evaluation),
        threads=tuple(sorted({1, max(1, cpus // 2), cpus})),
    )
    folder = output or Path("out") / f"{target}-searched"
    note(f"kdcmae-compile search: {target}, {budget_ms:g} ms, at most {max_drop:g} points lost -> {folder}")
    search = Search(lambda keep: load_model(**model_options, keep=keep), settings, step)
    try:
        search.run(folder)
    except GateError:
        _show(search.trials, as_json, partial(dict, engine=None))
        raise
    _show(search.trials, as_json, partial(dict, engine=str(folder), threads=search.trials[-1].threads))


def _show(trials: Sequence[Trial], as_json: bool, facts: Any) -> None:
    if as_json:
        print_json(facts(trials=[dataclasses.asdict(trial) for trial in trials]))
        return
    table = Table(title="Candidates, the most accurate first", title_justify="left")
    for column in ("precision", "tokens", "p90 ms by threads", "drop, points", "result"):
        table.add_column(column)
    for trial in trials:
        latency = ", ".join(f"{threads}: {found:.3g}" for threads, found in trial.latency_ms.items())
        drop = "-" if trial.drop is None else f"{trial.drop:.1f}"
        result = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
        table.add_row(trial.precision, f"{trial.keep:.0%}", latency or "-", drop, result)
    Console(highlight=False).print(table)
