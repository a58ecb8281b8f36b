"""From what a person asks for to a run: clips, model, task and settings, put together."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcmae.checkpoints import Transfer
from kdcmae.config import ClassifierConfig, EncoderConfig, PretrainingConfig
from kdcmae.data.augment import Augmentation
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.manifest import ClipRecord, LabelMap, read_manifest
from kdcmae.data.reading import Reader
from kdcmae.errors import ConfigError
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.training.initialise import start_finetuning, start_pretraining
from kdcmae.training.loop import Run
from kdcmae.training.recipes import Recipe
from kdcmae.training.settings import FinetuningSettings, TrainingSettings, parse_overrides
from kdcmae.training.sources import training_batches, validation_batches
from kdcmae.training.tasks import FinetuningTask, PretrainingTask

__all__ = ["Clips", "Request", "finetuning_run", "open_clips", "pretraining_run"]

_AVSYNTH = "avsynth"
_AVSYNTH_CLIPS = {"train": 2000, "valid": 300}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train.

    Args:
        recipe: to start from.
        data: a manifest, or ``avsynth[:CLIPS]``.
        validation: clips to measure on after each epoch, likewise; None for none, or AVSynth's own.
        output: folder of the run.
        checkpoint: to start from; None for fresh weights.
        preset: size of a fresh model; None for the recipe's.
        labels: a file of the classes; None for those that occur in the data. For finetuning.
        overrides: settings that differ from the recipe, as ``key=value``.
    """

    recipe: Recipe
    data: str
    validation: str | None = None
    output: Path
    checkpoint: Path | None = None
    preset: str | None = None
    labels: Path | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.preset is not None:
            raise ConfigError(f"the sizes come from {self.checkpoint}; leave preset={self.preset} out")


@dataclass(frozen=True, eq=False)
class Clips:
    """A list of clips, their classes, and how they are read; None for from their files."""

    records: list[ClipRecord]
    labels: LabelMap
    read: Reader | None = None


def open_clips(data: str, *, split: str, labels: LabelMap | None = None) -> Clips:
    """The clips of a manifest, or AVSynth made as it is read.

    Args:
        data: the file, or ``avsynth`` with ``:CLIPS`` if another number of them is wanted.
        split: of AVSynth: ``train`` or ``valid``.
        labels: the classes; by default those that occur in the manifest, in alphabetical order.

    Raises:
        DataError: not a manifest.
        ConfigError: no number of clips after ``avsynth:``.
    """
    name, _, count = data.partition(":")
    if name != _AVSYNTH or Path(data).exists():
        records = read_manifest(data)
        return Clips(records, labels or LabelMap.of_records(records))
    if count and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise ConfigError(f"data={data}: write a number of clips, such as avsynth:2000")
    synth = AVSynth(split, clips=int(count) if count else _AVSYNTH_CLIPS[split])
    return Clips(synth.records, synth.labels, synth.read)


def pretraining_run(request: Request) -> tuple[Run, Transfer | None]:
    """A pretraining run, and what its model took from the checkpoint.

    Raises:
        KdcmaeError: a setting, the data or the checkpoint cannot be used.
    """
    overrides = _overrides(request, TrainingSettings, PretrainingConfig)
    settings = dataclasses.replace(request.recipe.training, **overrides["training"])
    clips = open_clips(request.data, split="train")
    torch.manual_seed(settings.seed)
    model, transfer = start_pretraining(
        request.checkpoint,
        preset=request.preset or request.recipe.preset,
        sizes=request.recipe.sizes,
        overrides={**request.recipe.model, **overrides["model"]},
    )
    task = PretrainingTask(model, settings.seed)
    sources = _sources(request, settings, overrides["augmentation"], clips, _data_settings(model.config), labels=None)
    return Run(model=model, task=task, settings=settings, output=request.output, **sources), transfer


def finetuning_run(request: Request) -> tuple[Run, Transfer | None]:
    """A finetuning run, and what its model took from the checkpoint.

    Raises:
        KdcmaeError: a setting, the data or the checkpoint cannot be used.
    """
    overrides = _overrides(request, FinetuningSettings, ClassifierConfig)
    if given := overrides["model"].keys() & {"num_classes", "labels"}:
        raise ConfigError(f"{given.pop()} comes from the classes of the data; use --labels FILE")
    settings = dataclasses.replace(request.recipe.training, **overrides["training"])
    assert isinstance(settings, FinetuningSettings)
    labels = None if request.labels is None else LabelMap.read(request.labels)
    clips = open_clips(request.data, split="train", labels=labels)
    torch.manual_seed(settings.seed)
    model, transfer = start_finetuning(
        request.checkpoint,
        preset=request.preset or request.recipe.preset,
        sizes=request.recipe.sizes,
        overrides={
            **request.recipe.model,
            **overrides["model"],
            "num_classes": len(clips.labels),
            "labels": clips.labels.names,
        },
    )
    task = FinetuningTask(model, settings.label_smoothing)
    data = dataclasses.replace(_data_settings(model.config), modality=model.config.modality)
    sources = _sources(request, settings, overrides["augmentation"], clips, data, labels=clips.labels)
    return Run(model=model, task=task, settings=settings, output=request.output, **sources), transfer


def _overrides(request: Request, training: type, model: type) -> dict[str, dict[str, Any]]:
    return parse_overrides(request.overrides, {"training": training, "model": model, "augmentation": Augmentation})


def _data_settings(config: EncoderConfig) -> DatasetSettings:
    return DatasetSettings(preprocessing=Preprocessing(audio_frames=config.audio_length, image_size=config.image_size))


def _sources(
    request: Request,
    settings: TrainingSettings,
    augmentation: dict[str, Any],
    clips: Clips,
    data: DatasetSettings,
    *,
    labels: LabelMap | None,
) -> dict[str, Any]:
    """``train``, ``validation`` and ``identity`` of a run."""
    varied = dataclasses.replace(
        data,
        frames="random",
        augmentation=Augmentation(**{**request.recipe.augmentation, **augmentation}),
        seed=settings.seed,
    )
    train = training_batches(ClipDataset(clips.records, labels, varied, clips.read), settings)
    validation = None
    source = request.validation or (_AVSYNTH if clips.read is not None else None)
    if source is not None:
        held_out = open_clips(source, split="valid", labels=labels)
        validation = validation_batches(ClipDataset(held_out.records, labels, data, held_out.read), settings)
    listed = "\n".join(f"{record.id} {record.labels}" for record in clips.records)
    identity = {
        "data.clips": hashlib.sha256(listed.encode()).hexdigest(),
        **{f"data.{name}": value for name, value in dataclasses.asdict(varied).items()},
    }
    return {"train": train, "validation": validation, "identity": identity}
