"""Training tasks: a loss per batch and metrics over all clips, for pretraining and for finetuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.config import EncoderConfig
from kdcmae.evaluation.classification import ScoredClips, summarize
from kdcmae.evaluation.inpainting import MaskSettings, draw_reconstruction, inpaint, joined
from kdcmae.evaluation.metrics import confusion_matrix
from kdcmae.evaluation.pictures import Picture
from kdcmae.evaluation.retrieval import Features, retrieve
from kdcmae.pretraining import KDCMAE, MaskedPair
from kdcmae.runtime.scores import scores
from kdcmae.training.validation import Confusion, Criterion, Measured, Rows, Validation

__all__ = ["Batch", "FinetuningTask", "PretrainingTask", "Score", "Task", "seeded_pairs"]

_AUDIO, _VIDEO = "audio_features", "video_features"

Batch = Mapping[str, Tensor]
"""``audio`` (B, T, 128), ``image`` (B, 3, S, S), ``index`` (B,) int64 of the clips, ``target`` (B, C) with labels."""


@dataclass(frozen=True)
class Score:
    """The loss to minimise, and detached scalars to report, by name."""

    loss: Tensor
    metrics: dict[str, Tensor]


class Task(Measured, Protocol):
    """A task as the training loop uses it."""

    headline: tuple[str, ...]
    """The metrics to show while training."""
    validated: tuple[str, ...]
    """The metrics to show after an epoch, the criterion's among them."""
    criterion: Criterion
    """Which epoch is best."""

    def score(self, model: nn.Module, batch: Batch, draw: int) -> Score:
        """Score one batch.

        Args:
            model: called as a module, so that a wrapper sees the call.
            batch: of this rank, on the model's device.
            draw: random choices depend only on this number and on the clips, not on the number of ranks.
        """

    def pictures(self, batch: Batch) -> dict[str, Picture]:
        """Pictures of the model's output for a few clips, by name."""


class PretrainingTask:
    """Masked views of each clip, scored by the pretraining model.

    Args:
        module: the model itself, which knows its masks.
    """

    headline: tuple[str, ...] = ("reconstruction", "contrastive", "distillation")
    validated: tuple[str, ...] = ("loss", "reconstruction", "contrastive_accuracy", "recall_at_1")
    criterion = Criterion(metric="loss", higher_is_better=False)

    def __init__(self, module: KDCMAE, seed: int) -> None:
        self.module = module
        self.seed = seed

    def score(self, model: nn.Module, batch: Batch, draw: int) -> Score:
        pairs = seeded_pairs(self.module, batch, (self.seed, draw))
        output = model(batch["audio"], batch["image"], pairs=pairs)
        metrics = {
            "loss": output.loss,
            "reconstruction": output.reconstruction_audio + output.reconstruction_video,
            "reconstruction_audio": output.reconstruction_audio,
            "reconstruction_video": output.reconstruction_video,
            "contrastive": output.contrastive,
            "contrastive_accuracy": output.contrastive_accuracy,
            "distillation": output.distillation,
        }
        return Score(output.loss, {name: value.detach() for name, value in metrics.items()})

    def observe(self, model: nn.Module, batch: Batch, draw: int) -> dict[str, Tensor]:
        """Features of each clip for retrieval, and the losses of its batch."""
        measured = self.score(model, batch, draw).metrics
        audio, video = self.module.forward_features(batch["audio"], batch["image"])
        losses = {name: value.expand(len(batch["index"])) for name, value in measured.items()}
        return {**losses, _AUDIO: audio.mean(dim=1), _VIDEO: video.mean(dim=1)}

    def summarize(self, rows: Rows) -> Validation:
        """The mean losses, and how often a clip's sound finds its picture and the other way round."""
        metrics = {
            name: float(values.mean(dtype=np.float64))
            for name, values in rows.items()
            if name not in (_AUDIO, _VIDEO, "index")
        }
        retrieved = retrieve(Features(rows[_AUDIO], rows[_VIDEO]))
        recall = (retrieved.audio_to_video.recall_at_1 + retrieved.video_to_audio.recall_at_1) / 2
        return Validation(metrics={**metrics, "recall_at_1": recall})

    def blank(self) -> dict[str, Tensor]:
        return _blank(self.module.config, ("audio", "image"))

    def pictures(self, batch: Batch) -> dict[str, Picture]:
        config = self.module.config
        masks = MaskSettings(ratio=config.mask_ratio, audio=config.audio_mask, seed=self.seed)
        (filled,) = inpaint(self.module, [batch], masks)
        clips = range(len(batch["index"]))
        rows = [joined(draw_reconstruction(filled, clip, config.preprocessing)) for clip in clips]
        return {kind: _stacked([row[kind] for row in rows]) for kind in rows[0]}


class FinetuningTask:
    """Labelled clips, scored by binary or softmax cross-entropy, as the classifier's scores are.

    Args:
        label_smoothing: share of a target's mass that is spread over all classes.
    """

    headline: tuple[str, ...] = ("loss", "accuracy")

    def __init__(self, module: KDCMAEClassifier, label_smoothing: float) -> None:
        self.config = module.config
        self.label_smoothing = label_smoothing
        metric = "mAP" if self.config.multi_label else "accuracy"
        self.criterion = Criterion(metric=metric, higher_is_better=True)
        self.validated: tuple[str, ...] = ("loss", metric)

    def score(self, model: nn.Module, batch: Batch, draw: int) -> Score:
        logits = model(**{name: batch[name] for name in self.config.inputs}).float()
        loss = self._loss(logits, batch["target"], self.label_smoothing)
        return Score(loss, {"loss": loss.detach(), "accuracy": self._hits(logits, batch["target"])})

    def observe(self, model: nn.Module, batch: Batch, draw: int) -> dict[str, Tensor]:
        return {"logits": model(**{name: batch[name] for name in self.config.inputs}), "target": batch["target"]}

    def summarize(self, rows: Rows) -> Validation:
        """The loss without label smoothing, the accuracy of the best class, mAP and the confusion of classes."""
        logits, labels = rows["logits"], self.config.label_names
        loss = self._loss(torch.from_numpy(logits).double(), torch.from_numpy(rows["target"]).double(), 0.0)
        scored = ScoredClips(scores(logits, "sigmoid" if self.config.multi_label else "softmax"), rows["target"] > 0)
        measured = summarize(scored, labels)
        return Validation(
            metrics={
                "loss": loss.item(),
                "accuracy": measured.accuracy,
                "mAP": measured.mean_average_precision,
            },
            confusion=Confusion(labels=labels, counts=confusion_matrix(scored.scores, scored.positives)),
        )

    def blank(self) -> dict[str, Tensor]:
        return {**_blank(self.config, self.config.inputs), "target": torch.zeros(1, self.config.num_classes)}

    def pictures(self, batch: Batch) -> dict[str, Picture]:
        return {}

    @staticmethod
    def _hits(logits: Tensor, target: Tensor) -> Tensor:
        """Share of clips whose best class is one of theirs."""
        return (target.gather(1, logits.argmax(dim=1, keepdim=True)) > 0).float().mean()

    def _loss(self, logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
        """Cross-entropy against smoothed targets, which may be mixed or multi-hot."""
        if not self.config.multi_label:
            return F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True), label_smoothing=label_smoothing)
        smoothed = target * (1 - label_smoothing) + label_smoothing / target.shape[1]
        return F.binary_cross_entropy_with_logits(logits, smoothed)


def _stacked(pictures: Sequence[Picture]) -> Picture:
    """Pictures one below the other; shorter ones are padded with white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in pictures
    ]
    return np.concatenate(rows)


def _blank(config: EncoderConfig, inputs: Sequence[str]) -> dict[str, Tensor]:
    """Inputs of one clip, all zero."""
    shapes = {
        "audio": (1, config.audio_length, config.mel_bins),
        "image": (1, 3, config.image_size, config.image_size),
    }
    return {"index": torch.zeros(1, dtype=torch.int64), **{name: torch.zeros(shapes[name]) for name in inputs}}


def seeded_pairs(model: KDCMAE, batch: Batch, seeds: tuple[int, ...]) -> list[MaskedPair]:
    """Draw each clip's views from its own index, so that they do not depend on the other clips of the batch.

    Args:
        model: knows its masks.
        batch: ``audio`` and ``index``.
        seeds: further numbers that the views depend on.

    Returns:
        One pair of views per configured view, on the batch's device.
    """
    generators = []
    for index in batch["index"].tolist():
        seed = int(np.random.SeedSequence([*seeds, index]).generate_state(1, np.uint64)[0])
        generators.append(torch.Generator().manual_seed(seed >> 1))  # torch takes 63 bits
    return model.sample_pairs(batch["audio"], generators)
