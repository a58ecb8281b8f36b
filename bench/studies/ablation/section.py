"""The ablation in the documentation: a table, the settings, and what the differences are worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter, methodcaller
from typing import Any

from kdcmae.bench.report.envelope import machine
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, percent, table
from kdcmae.config import ClassifierConfig, EncoderConfig, PretrainingConfig, preset
from kdcmae.data.augment import Augmentation
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.training.recipes import Stage, recipe

__all__ = ["SECTION"]

_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Half a 95 % interval of a mean of so few values, in its standard errors: Student's t."""

Cells = Sequence[Mapping[str, Any]]


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    """Mean and standard deviation over the seeds, in per cent, and what the differences are worth."""
    report = documents[-1]
    by_row = {row["name"]: [cell for cell in report["cells"] if cell["row"] == row["name"]] for row in report["rows"]}
    budgets = list(report["settings"]["finetuning"])
    named = {row["title"]: _shares(by_row[row["name"]], budgets) for row in report["rows"]}
    titles = list(dict.fromkeys(title for shares in named.values() for title in shares))
    named["*chance or baseline*"] = _baselines(report["cells"])
    columns = [Column(title="pretraining", value=itemgetter("pretraining"), align="left")]
    columns += [Column(title=title, value=methodcaller("get", title), text=_spread) for title in titles]
    yield table("", columns, ({"pretraining": title, **shares} for title, shares in named.items()))
    yield from _notes(report, by_row, budgets)


SECTION = Section(name="ablation", command="ablation", kind="ablation", blocks=_blocks)


def _shares(cells: Cells, budgets: Sequence[str]) -> dict[str, list[float]]:
    """Measures of a row by the title of their column, one value per seed."""
    shares = {f"accuracy, {budget}": [cell["accuracy"][budget]["both"] for cell in cells] for budget in budgets}
    for withheld in ("without_video", "without_audio"):
        shares[withheld.replace("_", " ")] = [cell["accuracy"][budgets[-1]][withheld] for cell in cells]
    if all("retrieval" in cell for cell in cells):
        retrieval = [cell["retrieval"]["audio_to_video"] for cell in cells]
        shares |= _features(retrieval, [cell["localization"] for cell in cells])
    return shares


def _features(retrieval: Cells, localization: Cells) -> dict[str, list[float]]:
    return {
        "R@1, sound to picture": [way["recall_at_1"] for way in retrieval],
        "R@10": [way["recall_at_10"] for way in retrieval],
        "localisation cIoU": [box["ciou"] for box in localization],
        "AUC": [box["auc"] for box in localization],
    }


def _baselines(cells: Cells) -> dict[str, list[float]]:
    """Chance of retrieval, and the best box in the middle of the frame; the test clips are the same in every cell."""
    cell = next((cell for cell in cells if "retrieval" in cell), None)
    return _features([cell["retrieval"]["chance"]], [cell["localization"]["centre_box"]]) if cell else {}


def _notes(report: Document, by_row: Mapping[str, Cells], budgets: Sequence[str]) -> Iterator[str]:
    settings = report["settings"]
    seconds = {
        part: statistics.mean(cell["seconds"][part] for cell in report["cells"] if part in cell["seconds"])
        for part in ("pretraining", "finetuning")
    }
    yield (
        f"AVSynth version {report['avsynth_version']}, the tiny model, seeds: {len(settings['seeds'])} (mean ± "
        f"standard deviation where there are several), in percent. Pretrained on {settings['unlabelled_clips']} "
        f"unlabelled clips, finetuned on {settings['labelled_clips']} labelled ones with the same budgets in every "
        f"row, measured on {settings['test_clips']} held-out clips; a modality is withheld after {budgets[-1]}. A "
        f"cell took {seconds['pretraining']:.0f} s to pretrain and {seconds['finetuning']:.0f} s to finetune on one "
        f"core of {machine(report)}."
    )
    ratio = settings["pretraining"].get("mask_ratio", _recipe_settings("pretrain")["mask_ratio"])
    yield f"Each view is masked by {100 * ratio:g} % in pretraining. Settings, with the recipe's own in brackets:"
    changes = [f"- `avsynth-pretrain` with {_differences('pretrain', settings['pretraining'])}"]
    for budget in budgets:
        changes.append(
            f"- `avsynth-finetune`, {budget}: with {_differences('finetune', settings['finetuning'][budget])}"
        )
    yield "\n".join(changes)
    statements = [
        _statement(f"{part} against {title}, {budget}", by_row[row], by_row[other], budget)
        for part, row, other, title in (
            ("Pretraining", "kdc-mae", "scratch", "training from scratch"),
            ("Distillation", "kdc-mae", "complementary", "the row above it"),
        )
        if row in by_row and other in by_row
        for budget in budgets
    ]
    if statements:
        yield "\n".join(statements)


def _differences(stage: Stage, settings: Mapping[str, Any]) -> str:
    """Settings that differ from the recipe, each with the value of the recipe."""
    own = _recipe_settings(stage)
    named = [f"{name} {value} ({own[name]})" for name, value in settings.items() if value != own[name]]
    return ", ".join(named) or "nothing changed"


def _recipe_settings(stage: Stage) -> dict[str, Any]:
    """Values that the recipe gives to everything that settings may change."""
    base = recipe(f"avsynth-{stage}", stage)
    sizes = {**base.sizes, **base.model}
    config: EncoderConfig
    if stage == "pretrain":
        config = preset(PretrainingConfig, base.preset, **sizes)
    else:
        config = preset(ClassifierConfig, base.preset, num_classes=len(LABELS), **sizes)
    return {**asdict(config), **asdict(Augmentation(**base.augmentation)), **asdict(base.training)}


def _statement(what: str, ours: Cells, theirs: Cells, budget: str) -> str:
    """Difference of two rows' accuracies, paired by seed, with its 95 % interval."""
    other_by_seed = {cell["seed"]: cell["accuracy"][budget]["both"] for cell in theirs}
    gains = [100 * (cell["accuracy"][budget]["both"] - other_by_seed[cell["seed"]]) for cell in ours]
    mean = statistics.mean(gains)
    if len(gains) == 1:
        return f"- {what}: {mean:+.1f} points of accuracy with the only seed, which gives no interval."
    half = _T_95.get(len(gains), 1.96) * statistics.stdev(gains) / math.sqrt(len(gains))
    verdict = "" if abs(mean) > half else ": the interval includes 0, so this is no finding"
    return (
        f"- {what}: {mean:+.1f} ± {half:.1f} points of accuracy (95 % interval, paired, {len(gains)} seeds){verdict}."
    )


def _spread(shares: Sequence[float]) -> str:
    shown = percent(unit="")
    mean = shown(statistics.mean(shares))
    return mean if len(shares) == 1 else f"{mean} ± {shown(statistics.stdev(shares))}"
