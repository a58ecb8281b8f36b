"""The cells of the ablation: each pretrains, measures, finetunes and measures, several at a time.

Every cell has a folder of its own. Finished cells are stored and trainings resume, so that a killed run goes on.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdcmae.bench.report.envelope import stamp
from kdcmae.bench.studies.ablation.plan import ROWS, AblationSettings, Row
from kdcmae.bench.studies.heldout import HeldOut, measure_features
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.data.parallel import end_with_parent, interrupts_held
from kdcmae.errors import DataError
from kdcmae.files.replacing import replacing
from kdcmae.predictors import open_model
from kdcmae.training.loop import Trainer
from kdcmae.training.recipes import Recipe, Stage, recipe
from kdcmae.training.run import Run
from kdcmae.training.runs import RUNS, Request

__all__ = ["Cell", "run_ablation", "run_cell"]

_RESULT_FILE = "result.json"
_STAGES: tuple[Stage, ...] = ("pretrain", "finetune")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row with one seed.

    Args:
        row: objective of the pretraining.
        seed: of everything random.
        settings: of the ablation.
        folder: for the runs of this cell.
        threads: of the process.
    """

    row: Row
    seed: int
    settings: AblationSettings
    folder: Path
    threads: int

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that its figures depend on, as JSON gives it back; a stored result is used only if it is equal."""
        budgets = {name: value for name, value in asdict(self.settings).items() if name != "seeds"}
        facts = {
            "avsynth_version": AVSYNTH_VERSION,
            "recipes": [asdict(_recipe(stage)) for stage in _STAGES],
            "row": asdict(self.row),
            "seed": self.seed,
            "settings": budgets,
            "threads": self.threads,
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain


def run_ablation(
    settings: AblationSettings,
    folder: Path,
    *,
    processes: int,
    threads: int,
    rows: tuple[Row, ...] = ROWS,
    on_cell: Callable[[dict[str, Any], int, int], object] = lambda result, done, total: None,
) -> dict[str, Any]:
    """Run every cell that ``folder`` has no result of yet.

    Args:
        settings: of the ablation.
        folder: of the cells.
        processes: cells at a time.
        threads: of each.
        rows: of the table.
        on_cell: called with each result, the number of results so far and the number of all.

    Returns:
        The report, ready for JSON.

    Raises:
        KdcmaeError: a run failed; finished cells stay stored.
    """
    envelope = stamp("ablation")
    cells = [
        Cell(row=row, seed=seed, settings=settings, folder=folder / f"{row.name}-{seed}", threads=threads)
        for seed in settings.seeds
        for row in rows
    ]
    results = []
    for result in _results(cells, processes):
        results.append(result)
        on_cell(result, len(results), len(cells))
    order = {(cell.row.name, cell.seed): number for number, cell in enumerate(cells)}
    return {
        **envelope,
        "avsynth_version": AVSYNTH_VERSION,
        "settings": {**asdict(settings), "processes": processes, "threads": threads},
        "rows": [asdict(row) for row in rows],
        "cells": sorted(results, key=lambda result: order[result["row"], result["seed"]]),
    }


def _results(cells: Sequence[Cell], processes: int) -> Iterator[dict[str, Any]]:
    """The results of all cells: stored ones first, then the others as they finish."""
    missing = []
    for cell in cells:
        stored = _stored(cell)
        if stored is None:
            missing.append(cell)
        else:
            yield stored
    # Spawned, because a fork would inherit the threads of PyTorch without their state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
        with interrupts_held():
            futures = [pool.submit(_run_and_store, cell) for cell in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:  # interrupted, or a cell failed: the others resume when this is run again
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _stored(cell: Cell) -> dict[str, Any] | None:
    path = cell.folder / _RESULT_FILE
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("identity") != cell.identity:
        raise DataError(f"{cell.folder} holds a cell with other settings; remove it or choose another folder")
    return document


def _run_and_store(cell: Cell) -> dict[str, Any]:
    result = run_cell(cell)
    with replacing(cell.folder / _RESULT_FILE) as partial:
        partial.write_text(json.dumps({"identity": cell.identity, **result}, indent=1) + "\n", encoding="utf-8")
    return result


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and measure; a run that was killed resumes.

    Args:
        cell: to run. PyTorch in this process gets its number of threads.

    Returns:
        ``row``, ``seed``, ``accuracy`` per budget and withheld modality, and, where it was pretrained, ``retrieval``
        and ``localization``; ``seconds`` of each part.

    Raises:
        KdcmaeError: a run failed.
    """
    torch.set_num_threads(cell.threads)
    start, clips = time.perf_counter(), cell.settings.test_clips
    result: dict[str, Any] = {"row": cell.row.name, "seed": cell.seed, "seconds": {}}
    pretrained = None
    if cell.row.objective is not None:
        settings = cell.settings.pretraining
        pretrained = _trained(cell, "pretrain", "pretrain", cell.settings.unlabelled_clips, settings, None)
        result["seconds"]["pretraining"] = round(time.perf_counter() - start, 1)
        retrieval, localization = measure_features(pretrained, clips)
        result |= {"retrieval": asdict(retrieval), "localization": asdict(localization)}
    finetuning = time.perf_counter()
    result["accuracy"] = {}
    for budget, settings in cell.settings.finetuning.items():
        folder = f"finetune {budget}".replace(" ", "-")
        finetuned = _trained(cell, "finetune", folder, cell.settings.labelled_clips, settings, pretrained)
        predictor = open_model(finetuned, engine=False)
        accuracies = HeldOut(predictor.facts.preprocessing, clips).accuracies(predictor)
        result["accuracy"][budget] = {
            f"without_{missing}" if missing else "both": share for missing, share in accuracies.items()
        }
    result["seconds"]["finetuning"] = round(time.perf_counter() - finetuning, 1)
    result["seconds"]["total"] = round(time.perf_counter() - start, 1)
    return result


def _recipe(stage: Stage) -> Recipe:
    return recipe(f"avsynth-{stage}", stage)


def _trained(
    cell: Cell, stage: Stage, folder: str, clips: int, settings: Mapping[str, Any], checkpoint: Path | None
) -> Path:
    """Weights of one training run, which resumes where it stopped."""
    objective = cell.row.objective if stage == "pretrain" else None
    overrides = {**settings, **(objective or {}), "seed": cell.seed, "workers": 0}
    request = Request(
        recipe=_recipe(stage),
        data=f"avsynth:{clips}",
        output=cell.folder / folder,
        checkpoint=checkpoint,
        overrides=tuple(f"{name}={value}" for name, value in overrides.items()),
    )
    run: Run = RUNS[stage](request)[0]
    # The held-out clips are measured on once, at the end: nothing here chooses by them.
    run = dataclasses.replace(run, validation=None)
    return Trainer(run, device=torch.device("cpu"), resume=True, progress=None).fit().weights
