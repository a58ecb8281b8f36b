"""The ablation's machinery, with runs that take a moment in the place of trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.studies.ablation import suite
from kdcmae.bench.studies.ablation.plan import ROWS, AblationSettings
from kdcmae.bench.studies.ablation.section import SECTION
from kdcmae.bench.studies.ablation.suite import Cell, run_ablation, run_cell
from kdcmae.config import PretrainingConfig, preset
from kdcmae.errors import DataError
from kdcmae.training.recipes import RECIPES

SIZES = {"embed_dim": 32, "num_heads": 1, "specific_depth": 1, "decoder_embed_dim": 16, "decoder_depth": 1}
SMALL = AblationSettings(
    seeds=(0,),
    unlabelled_clips=16,
    labelled_clips=16,
    test_clips=12,
    pretraining={"epochs": 1, "batch_size": 8, "decoder_num_heads": 1, "precision": "fp32", **SIZES},
    finetuning={"1 epoch": {"epochs": 1, "batch_size": 8, "average_from_epoch": "none", "precision": "fp32"}},
)


def test_each_row_adds_one_part() -> None:
    configs = [preset(PretrainingConfig, "tiny", **(row.objective or {})) for row in ROWS]
    parts = [(one.views, one.complementary, one.distillation) for one in configs[1:]]
    assert ROWS[0].objective is None
    assert parts == [(1, True, "none"), (2, False, "none"), (2, True, "none"), (2, True, "js")]


@pytest.mark.slow
def test_a_cell_trains_and_measures_and_is_kept(tmp_path: Path) -> None:
    rows = (ROWS[0], ROWS[-1])
    seen: list[tuple[int, int]] = []
    encoder = {name: value for name, value in SIZES.items() if "decoder" not in name}
    settings = replace(SMALL, finetuning={"1 epoch": {**SMALL.finetuning["1 epoch"], **encoder}})
    # A checkpoint gives the sizes, so that the two rows cannot share sizes among the settings of finetuning.
    first = run_cell(Cell(row=rows[0], seed=0, settings=settings, folder=tmp_path / "scratch-0", threads=1))
    assert set(first) == {"row", "seed", "seconds", "accuracy"}
    report = run_ablation(
        SMALL, tmp_path, processes=1, threads=1, rows=rows[1:], on_cell=lambda _, *at: seen.append(at)
    )
    (cell,) = report["cells"]
    assert seen == [(1, 1)]
    assert cell["retrieval"]["clips"] == cell["localization"]["clips"] == 12
    assert set(cell["accuracy"]["1 epoch"]) == {"both", "without_audio", "without_video"}
    assert json.loads(json.dumps(report, allow_nan=False))["cells"] == report["cells"]


def _pretend(calls: list[str]) -> Any:
    def run(cell: Cell) -> dict[str, Any]:
        calls.append(f"{cell.row.name}-{cell.seed}")
        cell.folder.mkdir(parents=True)
        result = {"row": cell.row.name, "seed": cell.seed}
        (cell.folder / "result.json").write_text(json.dumps({"identity": cell.identity, **result}))
        return result

    return run


class InThisProcess:
    """An executor that works at once."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def shutdown(self, **_: object) -> None: ...

    def submit(self, function: Any, cell: Cell) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(function(cell))
        return future


def test_finished_cells_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(suite, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(suite, "_run_and_store", _pretend(calls))
    settings = replace(SMALL, seeds=(0, 1))
    run_ablation(settings, tmp_path, processes=1, threads=1, rows=ROWS[:2])
    assert calls == ["scratch-0", "cav-mae-0", "scratch-1", "cav-mae-1"]
    report = run_ablation(replace(SMALL, seeds=(0, 1, 2)), tmp_path, processes=1, threads=1, rows=ROWS[:2])
    assert calls[4:] == ["scratch-2", "cav-mae-2"]
    assert [(cell["row"], cell["seed"]) for cell in report["cells"]] == [
        (row, seed) for seed in (0, 1, 2) for row in ("scratch", "cav-mae")
    ]
    with pytest.raises(DataError, match="other settings"):
        run_ablation(replace(settings, labelled_clips=24), tmp_path, processes=1, threads=1, rows=ROWS[:2])


@pytest.mark.parametrize("changed", ["data set", "recipe"])
def test_another_data_set_or_recipe_makes_another_cell(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Cell(row=ROWS[-1], seed=0, settings=SMALL, folder=tmp_path, threads=1)
    before = one.identity
    assert one.identity == before
    if changed == "data set":
        monkeypatch.setattr(suite, "AVSYNTH_VERSION", -1)
    else:
        other = replace(RECIPES["avsynth-finetune"], augmentation={"time_mask": 7})
        monkeypatch.setitem(RECIPES, "avsynth-finetune", other)  # type: ignore[arg-type]
    assert one.identity != before


def _cell(row: str, seed: int, accuracy: float, *, pretrained: bool = True) -> dict[str, Any]:
    way = {"recall_at_1": 0.1, "recall_at_5": 0.2, "recall_at_10": 0.3, "median_rank": 9.0}
    chance = {"recall_at_1": 0.01, "recall_at_5": 0.05, "recall_at_10": 0.1, "median_rank": 50.5}
    box = {"side": 0.3, "ciou": 0.02, "auc": 0.05, "pointing": 0.1}
    features = {
        "retrieval": {"clips": 100, "audio_to_video": way, "video_to_audio": way, "chance": chance},
        "localization": {"clips": 100, "ciou": 0.25, "auc": 0.3, "pointing": 0.5, "centre_box": box},
    }
    return {
        "row": row,
        "seed": seed,
        "seconds": {"finetuning": 10.0, "total": 20.0, **({"pretraining": 9.0} if pretrained else {})},
        "accuracy": {
            "few": {"both": accuracy / 2, "without_audio": 0.1, "without_video": 0.1},
            "many": {"both": accuracy, "without_audio": 0.2, "without_video": 0.4},
        },
        **(features if pretrained else {}),
    }


def test_the_table_has_means_and_spread_and_says_who_won() -> None:
    own = RECIPES["avsynth-pretrain"]
    accuracies = {"scratch": (0.5, 0.6), "cav-mae": (0.6, 0.6), "second-view": (0.7, 0.6)}
    accuracies |= {"complementary": (0.7, 0.9), "kdc-mae": (0.8, 0.8)}
    report = {
        "avsynth_version": 2,
        "environment": {"host": {"cpu": "a processor"}},
        "settings": {
            **{"seeds": [0, 1], "unlabelled_clips": 10, "labelled_clips": 5, "test_clips": 100},
            "pretraining": {"mask_ratio": 0.6, "batch_size": own.training.batch_size, "precision": "bf16"},
            "finetuning": {"few": {"mixup_rate": 0.5}, "many": {}},
        },
        "rows": [{"name": row.name, "title": row.title} for row in ROWS],
        "cells": [
            _cell(row, seed, value, pretrained=row != "scratch")
            for row, values in accuracies.items()
            for seed, value in enumerate(values)
        ],
    }
    lines = render_markdown(SECTION.render(report)).splitlines()
    assert lines[2] == "| from scratch | 27.5 ± 3.5 | 55.0 ± 7.1 | 40.0 ± 0.0 | 20.0 ± 0.0 | - | - | - | - |"
    assert lines[6].startswith(
        "| + distillation: KDC-MAE | 40.0 ± 0.0 | 80.0 ± 0.0 | 40.0 ± 0.0 | 20.0 ± 0.0 | 10.0 ± 0.0 | 30.0"
    )
    assert lines[7] == "| *chance or baseline* | - | - | - | - | 1.0 | 10.0 | 2.0 | 5.0 |"
    text = " ".join(lines)
    assert "Pretraining against training from scratch, many: +25.0 ± 63.5 points of accuracy" in text
    assert "Each view is masked by 60 % in pretraining." in text
    assert f"- `avsynth-pretrain` with mask_ratio 0.6 ({own.model['mask_ratio']}), precision bf16 (auto)" in lines
    assert "- `avsynth-finetune`, few: with mixup_rate 0.5 (0.0)" in lines
    assert (
        "- Distillation against the row above it, many: +0.0 ± 127.1 points of accuracy (95 % interval, paired, "
        "2 seeds): the interval includes 0, so this is no finding."
    ) in lines


def test_a_table_of_some_rows_says_only_what_they_tell() -> None:
    rows = [row for row in ROWS if row.name in ("scratch", "kdc-mae")]
    report = {
        "avsynth_version": 3,
        "environment": {"host": {"cpu": "a processor"}},
        "settings": {
            **{"seeds": [0], "unlabelled_clips": 10, "labelled_clips": 5, "test_clips": 100},
            **{"pretraining": {}, "finetuning": {"few": {}, "many": {}}},
        },
        "rows": [{"name": row.name, "title": row.title} for row in rows],
        "cells": [_cell("scratch", 0, 0.2, pretrained=False), _cell("kdc-mae", 0, 0.4)],
    }
    text = render_markdown(SECTION.render(report))
    assert "Pretraining against training from scratch, many: +20.0 points" in text
    assert "Distillation" not in text
    assert f"masked by {100 * RECIPES['avsynth-pretrain'].model['mask_ratio']:g} %" in text
    assert "- `avsynth-finetune`, many: with nothing changed" in text
