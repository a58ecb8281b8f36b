"""One cell of the ablation: pretrain, measure, finetune, measure. It has a folder of its own and can resume."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from kdcmae.bench.studies.ablation.plan import AblationSettings, Row
from kdcmae.bench.studies.heldout import HeldOut, measure_features
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.evaluation.classification import Missing
from kdcmae.predictors import open_model
from kdcmae.training.loop import Trainer
from kdcmae.training.recipes import Recipe, Stage, recipe
from kdcmae.training.run import Run
from kdcmae.training.runs import Request, finetuning_run, pretraining_run

__all__ = ["Cell", "run_cell"]


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
        budgets = {name: value for name, value in dataclasses.asdict(self.settings).items() if name != "seeds"}
        facts = {
            "avsynth_version": AVSYNTH_VERSION,
            "recipes": [dataclasses.asdict(_recipe(stage)) for stage in get_args(Stage)],
            "row": dataclasses.asdict(self.row),
            "seed": self.seed,
            "settings": budgets,
            "threads": self.threads,
        }
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain


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
    start = time.perf_counter()
    result: dict[str, Any] = {"row": cell.row.name, "seed": cell.seed, "seconds": {}}
    pretrained = None
    if cell.row.objective is not None:
        settings = cell.settings.pretraining
        pretrained = _trained(cell, "pretrain", "pretrain", cell.settings.unlabelled_clips, settings, None)
        result["seconds"]["pretraining"] = round(time.perf_counter() - start, 1)
        result.update(_measured_features(pretrained, cell.settings.test_clips))
    finetuning = time.perf_counter()
    result["accuracy"] = {}
    for budget, settings in cell.settings.finetuning.items():
        folder = f"finetune {budget}".replace(" ", "-")
        finetuned = _trained(cell, "finetune", folder, cell.settings.labelled_clips, settings, pretrained)
        result["accuracy"][budget] = _accuracy(finetuned, cell.settings.test_clips)
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
    assemble = {"pretrain": pretraining_run, "finetune": finetuning_run}[stage]
    run: Run = assemble(request)[0]
    # The held-out clips are measured on once, at the end: nothing here chooses by them.
    run = dataclasses.replace(run, validation=None)
    return Trainer(run, device=torch.device("cpu"), resume=True, progress=None).fit().weights


def _measured_features(checkpoint: Path, clips: int) -> dict[str, Any]:
    retrieval, localization = measure_features(checkpoint, clips)
    return {"retrieval": dataclasses.asdict(retrieval), "localization": dataclasses.asdict(localization)}


def _accuracy(checkpoint: Path, clips: int) -> dict[str, float]:
    """Accuracy with both modalities, and with one of them withheld."""
    predictor = open_model(checkpoint, engine=False)
    held_out = HeldOut(predictor.facts.preprocessing, clips)
    withheld: dict[str, Missing | None] = {"both": None, "without_audio": "audio", "without_video": "video"}
    return {name: held_out.accuracy(predictor, missing=missing) for name, missing in withheld.items()}
