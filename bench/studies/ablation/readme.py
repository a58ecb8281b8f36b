"""The README's ablation table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kdcmae.bench.report.markers import table_row
from kdcmae.config import ClassifierConfig, EncoderConfig, PretrainingConfig, preset
from kdcmae.data.augment import Augmentation
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.training.recipes import Stage, recipe

__all__ = ["BEGIN", "END", "render"]

BEGIN = "<!-- ablation: written by `kdcmae-bench ablation` -->"
END = "<!-- end of ablation -->"

_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Half a 95 % interval of a mean of so few values, in its standard errors: Student's t."""

_FEATURES = ("R@1, sound to picture", "R@10", "localisation cIoU", "AUC")


def render(report: Mapping[str, Any]) -> str:
    """Markdown of a report: mean and standard deviation over the seeds, in percent."""
    by_row = {row["name"]: [cell for cell in report["cells"] if cell["row"] == row["name"]] for row in report["rows"]}
    budgets = list(report["settings"]["finetuning"])
    headings = ["pretraining", *(f"accuracy, {budget}" for budget in budgets), "without video", "without audio"]
    lines = [table_row([*headings, *_FEATURES]), table_row(["---"] * (len(headings) + len(_FEATURES)))]
    lines += [table_row([row["title"], *_figures(by_row[row["name"]], budgets)]) for row in report["rows"]]
    lines += [table_row(["*chance or baseline*", *[""] * (len(headings) - 1), *_baselines(report["cells"])])]
    return "\n".join([*lines, "", *_notes(report, by_row, budgets)])


def _figures(cells: Sequence[Mapping[str, Any]], budgets: Sequence[str]) -> Iterator[str]:
    for budget in budgets:
        yield _spread([cell["accuracy"][budget]["both"] for cell in cells])
    for withheld in ("without_video", "without_audio"):
        yield _spread([cell["accuracy"][budgets[-1]][withheld] for cell in cells])
    pretrained = all("retrieval" in cell for cell in cells)
    for measure in ("recall_at_1", "recall_at_10"):
        yield _spread([cell["retrieval"]["audio_to_video"][measure] for cell in cells]) if pretrained else ""
    for measure in ("ciou", "auc"):
        yield _spread([cell["localization"][measure] for cell in cells]) if pretrained else ""


def _baselines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Chance of retrieval, and the best box in the middle of the frame; the test clips are the same in every cell."""
    cell = next(cell for cell in cells if "retrieval" in cell)
    chance, box = cell["retrieval"]["chance"], cell["localization"]["centre_box"]
    shares = (chance["recall_at_1"], chance["recall_at_10"], box["ciou"], box["auc"])
    return [_percent(share) for share in shares]


def _notes(
    report: Mapping[str, Any], by_row: Mapping[str, Sequence[Mapping[str, Any]]], budgets: Sequence[str]
) -> Iterator[str]:
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
        f"core of {report['environment']['host']['cpu']}."
    )
    yield ""
    ratio = settings["pretraining"].get("mask_ratio", _recipe_settings("pretrain")["mask_ratio"])
    yield f"Each view is masked by {100 * ratio:g} % in pretraining. Settings, with the recipe's own in brackets:"
    yield ""
    yield f"- `avsynth-pretrain` with {_differences('pretrain', settings['pretraining'])}"
    for budget in budgets:
        yield f"- `avsynth-finetune`, {budget}: with {_differences('finetune', settings['finetuning'][budget])}"
    yield ""
    for what, row, other, title in (
        ("Pretraining", "kdc-mae", "scratch", "training from scratch"),
        ("Distillation", "kdc-mae", "complementary", "the row above it"),
    ):
        if row in by_row and other in by_row:
            for budget in budgets:
                yield _verdict(f"{what} against {title}, {budget}", by_row[row], by_row[other], budget)


def _differences(stage: Stage, given: Mapping[str, Any]) -> str:
    """The settings that are not the recipe's, each with the recipe's own."""
    own = _recipe_settings(stage)
    named = [f"{name} {value} ({own[name]})" for name, value in given.items() if value != own[name]]
    return ", ".join(named) or "nothing changed"


def _recipe_settings(stage: Stage) -> dict[str, Any]:
    """Everything that a run's settings may change, as the recipe has it."""
    base = recipe(f"avsynth-{stage}", stage)
    sizes = {**base.sizes, **base.model}
    config: EncoderConfig
    if stage == "pretrain":
        config = preset(PretrainingConfig, base.preset, **sizes)
    else:
        config = preset(ClassifierConfig, base.preset, num_classes=len(LABELS), **sizes)
    return {**asdict(config), **asdict(Augmentation(**base.augmentation)), **asdict(base.training)}


def _verdict(what: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], budget: str) -> str:
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
    if len(shares) == 1:
        return _percent(shares[0])
    return f"{_percent(statistics.mean(shares))} ± {_percent(statistics.stdev(shares))}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
