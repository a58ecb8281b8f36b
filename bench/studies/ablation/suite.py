"""All cells of the ablation, several at a time. Finished cells are stored, so that a killed run resumes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from kdcmae.bench.report.envelope import stamp
from kdcmae.bench.studies.ablation.plan import ROWS, AblationSettings, Row
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.data.parallel import end_with_parent, interrupts_held
from kdcmae.errors import DataError
from kdcmae.files.replacing import replacing

__all__ = ["run_ablation"]

_RESULT_FILE = "result.json"


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
    from kdcmae.bench.studies.ablation.cell import Cell

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
        "settings": {**dataclasses.asdict(settings), "processes": processes, "threads": threads},
        "rows": [{**dataclasses.asdict(row)} for row in rows],
        "cells": sorted(results, key=lambda result: order[result["row"], result["seed"]]),
    }


def _results(cells: list[Any], processes: int) -> Iterator[dict[str, Any]]:
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


def _run_and_store(cell: Any) -> dict[str, Any]:
    from kdcmae.bench.studies.ablation.cell import run_cell

    result = run_cell(cell)
    with replacing(cell.folder / _RESULT_FILE) as partial:
        partial.write_text(json.dumps({"identity": cell.identity, **result}, indent=1) + "\n", encoding="utf-8")
    return result


def _stored(cell: Any) -> dict[str, Any] | None:
    path = cell.folder / _RESULT_FILE
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("identity") != cell.identity:
        raise DataError(f"{cell.folder} holds a cell with other settings; remove it or choose another folder")
    return document
