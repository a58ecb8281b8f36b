"""Build a run from a request: clips, model, task and settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcmae import config as configs
from kdcmae.checkpoints import Transfer, load_classifier
from kdcmae.collectives import rank
from kdcmae.config import ClassifierConfig, EncoderConfig, PretrainingConfig
from kdcmae.data.augment import Augmentation
from kdcmae.data.avsynth.naming import names_avsynth
from kdcmae.data.dataset import DatasetSettings
from kdcmae.data.manifest import LabelMap
from kdcmae.data.statistics import KeptStatistics
from kdcmae.errors import ConfigError
from kdcmae.normalisation import described, differing
from kdcmae.runtime.manifest import digest
from kdcmae.training.catalogue import TAUGHT, parse_settings
from kdcmae.training.distillation import DistillationTask
from kdcmae.training.initialise import start_distillation, start_finetuning, start_pretraining
from kdcmae.training.loop import STATE_FILE
from kdcmae.training.recipes import SCHEDULE, Recipe, Stage, rescaled
from kdcmae.training.resume import stored_identity
from kdcmae.training.run import Run
from kdcmae.training.settings import HELD_OUT, DistillationSettings, FinetuningSettings, TrainingSettings
from kdcmae.training.sources import ClipSource, kept_statistics, open_source
from kdcmae.training.tasks import FinetuningTask, PretrainingTask
from kdcmae.weights.sets import Weights

__all__ = ["RUNS", "Request", "distillation_run", "finetuning_run", "pretraining_run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for a training run.

    Args:
        recipe: to start from.
        data: a manifest, a shard, a folder of shards, or ``avsynth[:CLIPS]``.
        validation: clips to measure on after each epoch, given as ``data``; None for none, or AVSynth's own.
        output: folder of the run.
        teacher: for distillation, a finetuned checkpoint to learn from.
        checkpoint: to start from; None for fresh weights.
        weights: which set of weights, if the checkpoint has two.
        preset: size of a fresh model; None for the recipe's.
        labels: for finetuning, a file of the classes; None for the labels of the manifest.
        overrides: settings that differ from the recipe, as ``key=value``. With another number of epochs the recipe's
            schedule is stretched or shortened in proportion, as far as it is not set too.
        resume: the run goes on where it stopped, and keeps its schedule also with more epochs.
    """

    recipe: Recipe
    data: str
    validation: str | None = None
    output: Path
    teacher: Path | None = None
    checkpoint: Path | None = None
    weights: Weights | None = None
    preset: str | None = None
    labels: Path | None = None
    overrides: tuple[str, ...] = ()
    resume: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.preset is not None:
            raise ConfigError(f"the sizes come from {self.checkpoint}; leave preset={self.preset} out")
        if self.checkpoint is None and self.weights is not None:
            raise ConfigError(f"weights={self.weights} chooses among those of a checkpoint, and none is given")


def pretraining_run(request: Request) -> tuple[Run, Transfer | None]:
    """A pretraining run, and a record of what came from the checkpoint.

    Raises:
        KdcmaeError: a setting, the data or the checkpoint cannot be used.
    """
    overrides = parse_settings("pretrain", request.overrides)
    settings = _settings(request, overrides["training"])
    kept = kept_statistics(request.data)
    clips = open_source(request.data, split="train")
    torch.manual_seed(settings.seed)
    model, transfer = start_pretraining(
        request.checkpoint,
        weights=request.weights,
        preset=request.preset or request.recipe.preset,
        sizes={**request.recipe.sizes, **(kept.values if kept else {})},
        overrides={**request.recipe.model, **overrides["model"]},
    )
    _require_contrast(model.config, settings)
    _compare_statistics(request, model.config, kept, overrides["model"])
    task = PretrainingTask(model, settings.seed)
    data = DatasetSettings(preprocessing=model.config.preprocessing)
    sources = _sources(request, settings, overrides["augmentation"], clips, data, labels=None)
    return Run(model=model, task=task, settings=settings, output=request.output, **sources), transfer


def _compare_statistics(
    request: Request, config: EncoderConfig, kept: KeptStatistics | None, overrides: Mapping[str, Any]
) -> None:
    """Warn if the clips have other statistics than the checkpoint, whose statistics the model uses.

    Raises:
        ConfigError: it has those of the clips, which were measured over spectrograms of another length.
    """
    if kept is None:
        return
    theirs = configs.replace(config, **kept.values)
    if others := [name for name in differing(config, theirs) if name not in overrides]:
        if rank() == 0:
            logger.warning(
                "%s has %s; keeping %s, as the checkpoint has: to use the others, add %s",
                kept.path,
                described(theirs, others),
                described(config, others),
                " ".join(f"--set {name}={_as_set(kept.values[name])}" for name in others),
            )
    elif request.checkpoint is None and not kept.values.keys() <= overrides.keys():
        kept.require_frames(config.audio_length)


def _as_set(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _require_contrast(config: PretrainingConfig, settings: TrainingSettings) -> None:
    """Refuse batches of one clip: without a negative, the contrastive loss is always 0."""
    clips = settings.batch_size // settings.accumulation_steps
    if clips < 2 and "contrastive" in config.loss_weights:
        raise ConfigError(
            f"batch_size={settings.batch_size} with accumulation_steps={settings.accumulation_steps} contrasts each "
            f"clip with no other, from which nothing is learned; raise batch_size to {2 * settings.accumulation_steps} "
            "or more, or set contrastive_weight=0"
        )


def finetuning_run(request: Request) -> tuple[Run, Transfer | None]:
    """A finetuning run, and a record of what came from the checkpoint.

    Raises:
        KdcmaeError: a setting, the data or the checkpoint cannot be used.
    """
    overrides = parse_settings("finetune", request.overrides)
    settings = _settings(request, overrides["training"])
    kept = kept_statistics(request.data)
    assert isinstance(settings, FinetuningSettings)
    clips = open_source(request.data, split="train")
    labels = clips.classes(None if request.labels is None else LabelMap.read(request.labels))
    torch.manual_seed(settings.seed)
    model, transfer = start_finetuning(
        request.checkpoint,
        weights=request.weights,
        preset=request.preset or request.recipe.preset,
        sizes={**request.recipe.sizes, **(kept.values if kept else {})},
        overrides={
            **request.recipe.model,
            **overrides["model"],
            "num_classes": len(labels),
            "labels": labels.names,
        },
    )
    _compare_statistics(request, model.config, kept, overrides["model"])
    task = FinetuningTask(model, settings.label_smoothing)
    data = DatasetSettings(preprocessing=model.config.preprocessing, modality=model.config.modality)
    sources = _sources(request, settings, overrides["augmentation"], clips, data, labels=labels)
    return Run(model=model, task=task, settings=settings, output=request.output, **sources), transfer


def distillation_run(request: Request) -> tuple[Run, Transfer | None]:
    """A run that teaches a student, and a record of what came from the student's checkpoint.

    Raises:
        KdcmaeError: a setting, the data, the teacher or the checkpoint cannot be used.
    """
    overrides = parse_settings("distill", request.overrides)
    settings = _settings(request, overrides["training"])
    assert isinstance(settings, DistillationSettings)
    assert request.teacher is not None
    statistics = {name: value for name, value in overrides["model"].items() if name in TAUGHT}
    teacher = load_classifier(request.teacher, **statistics)
    clips = open_source(request.data, split="train")
    if not clips.has_labels and settings.teacher_weight < 1:
        if rank() == 0:
            logger.warning("no clip of %s has a label: the student learns from the teacher alone", request.data)
        settings = dataclasses.replace(settings, teacher_weight=1.0)
    alone = settings.teacher_weight == 1
    labels = _taught_labels(request, teacher.config, needed=not alone or request.validation is not None)
    torch.manual_seed(settings.seed)
    model, transfer = start_distillation(
        configs.replace(teacher.config, labels=labels.names),
        request.checkpoint,
        weights=request.weights,
        preset=request.preset or request.recipe.preset,
        sizes=request.recipe.sizes if request.preset is None else {},
        overrides={**request.recipe.model, **overrides["model"]},
    )
    task = DistillationTask(model, teacher, settings)
    data = DatasetSettings(preprocessing=model.config.preprocessing, modality=model.config.modality)
    sources = _sources(request, settings, overrides["augmentation"], clips, data, labels=labels, labelled=not alone)
    sources["identity"]["teacher"] = digest(request.teacher)
    return Run(model=model, task=task, settings=settings, output=request.output, **sources), transfer


def _taught_labels(request: Request, teacher: ClassifierConfig, *, needed: bool) -> LabelMap:
    """The teacher's classes; a file of them says by which ids the clips may name them.

    Raises:
        ConfigError: the file has other classes, or names are ``needed`` and neither it nor the teacher has some.
    """
    if request.labels is None:
        if needed and not teacher.labels:
            raise ConfigError(
                f"{request.teacher} does not name its {teacher.num_classes} classes, which the labels of clips are; "
                "give --labels FILE, or set teacher_weight=1 and leave --validation out"
            )
        return LabelMap(teacher.label_names, teacher.label_names)
    labels = LabelMap.read(request.labels)
    if len(labels) != teacher.num_classes or (teacher.labels and labels.names != teacher.labels):
        raise ConfigError(
            f"{request.labels} has other classes than {request.teacher}, which a student shares; leave --labels out"
        )
    return labels


RUNS: Mapping[Stage, Callable[[Request], tuple[Run, Transfer | None]]] = {
    "pretrain": pretraining_run,
    "finetune": finetuning_run,
    "distill": distillation_run,
}
"""How the run of each stage is built; it comes with a record of what came from the checkpoint."""


def _settings(request: Request, given: dict[str, Any]) -> TrainingSettings:
    """The recipe's settings with the overrides, and its schedule scaled to the number of epochs."""
    training = request.recipe.training
    if "epochs" in given:
        if given["epochs"] < 1:
            raise ConfigError(f"epochs={given['epochs']} must be at least 1")
        training = rescaled(training, given["epochs"])
    return dataclasses.replace(training, **{**_schedule_so_far(request), **given})


def _schedule_so_far(request: Request) -> dict[str, Any]:
    """The schedule of a resumed run; empty for a new run, or a run without a saved state."""
    path = request.output / STATE_FILE
    if not request.resume or not path.is_file():
        return {}
    stored = stored_identity(path)
    return {name: stored[name] for name in SCHEDULE if name in stored}


def _sources(
    request: Request,
    settings: TrainingSettings,
    augmentation: dict[str, Any],
    clips: ClipSource,
    data: DatasetSettings,
    *,
    labels: LabelMap | None,
    labelled: bool = True,
) -> dict[str, Any]:
    """``train``, ``validation`` and ``identity`` of a run; only where ``labelled``, the labels are trained on too."""
    varied = dataclasses.replace(
        data,
        frames="random",
        augmentation=Augmentation(**{**request.recipe.augmentation, **augmentation}),
        seed=settings.seed,
    )
    train = clips.training(labels if labelled else None, varied, settings)
    validation, measured = None, None
    held_out = request.validation or ("avsynth" if names_avsynth(request.data) else None)
    if held_out is not None:
        source = open_source(held_out, split="valid")
        validation, measured = source.validation(labels, data, settings), source.identity(settings)["data.clips"]
    identity = {
        **clips.identity(settings),
        HELD_OUT: measured,
        **{f"data.{name}": value for name, value in dataclasses.asdict(varied).items()},
    }
    return {"train": train, "validation": validation, "identity": identity}
