"""Distillation: a student learns what a finetuned teacher answers, and which clips the teacher finds alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.training.settings import DistillationSettings
from kdcmae.training.tasks import Batch, FinetuningTask, Score
from kdcmae.training.validation import Rows, Validation

__all__ = ["DistillationTask", "answer_loss", "likeness_loss"]

_TEACHER = "teacher_logits"


class DistillationTask(FinetuningTask):
    """Clips, with labels or without, scored by how far a student is from its teacher.

    Teacher and student get the same inputs, augmented and mixed as they are (Beyer et al., Knowledge distillation: a
    good teacher is patient and consistent, CVPR 2022).

    Args:
        module: the student.
        teacher: a classifier with the student's inputs and classes; it is moved to the student's device, and not
            trained.
        settings: of the run.
    """

    headline: tuple[str, ...] = ("loss", "agreement")

    def __init__(self, module: KDCMAEClassifier, teacher: KDCMAEClassifier, settings: DistillationSettings) -> None:
        super().__init__(module, settings.label_smoothing)
        self.teacher = teacher.eval().requires_grad_(False)
        self.settings = settings
        self.validated = (*self.validated, "agreement", f"teacher_{self.criterion.metric}")

    def score(self, model: nn.Module, batch: Batch, draw: int) -> Score:
        inputs, settings = {name: batch[name] for name in self.config.inputs}, self.settings
        theirs, theirs_alike = self._taught(inputs)
        ours, ours_alike = (value.float() for value in model(**inputs, with_feature=True))
        answers = answer_loss(
            ours, theirs, temperature=settings.teacher_temperature, multi_label=self.config.multi_label
        )
        features = likeness_loss(ours_alike, theirs_alike)
        loss = settings.teacher_weight * answers + settings.feature_weight * features
        metrics = {"answers": answers, "features": features, "agreement": _same_class(ours, theirs)}
        if settings.teacher_weight < 1:
            target = batch["target"]
            loss = loss + (1 - settings.teacher_weight) * self._loss(ours, target, self.label_smoothing)
            metrics["accuracy"] = self._hits(ours, target)
        return Score(loss, {"loss": loss.detach(), **{name: value.detach() for name, value in metrics.items()}})

    def observe(self, model: nn.Module, batch: Batch, draw: int) -> dict[str, Tensor]:
        inputs = {name: batch[name] for name in self.config.inputs}
        return {**super().observe(model, batch, draw), _TEACHER: self._taught(inputs)[0]}

    def summarize(self, rows: Rows) -> Validation:
        """The student's metrics, the teacher's on the same clips, and how often their best classes agree."""
        ours = super().summarize(rows)
        theirs = super().summarize({**rows, "logits": rows[_TEACHER]})
        compared = {
            "agreement": float((rows["logits"].argmax(axis=1) == rows[_TEACHER].argmax(axis=1)).mean()),
            **{f"teacher_{name}": value for name, value in theirs.metrics.items()},
        }
        return Validation(metrics={**ours.metrics, **compared}, confusion=ours.confusion)

    @torch.no_grad()
    def _taught(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's logits (B, C) and features (B, D)."""
        device = next(iter(inputs.values())).device
        logits, feature = self.teacher.to(device)(**inputs, with_feature=True)
        return logits.float(), feature.float()


def answer_loss(student: Tensor, teacher: Tensor, *, temperature: float, multi_label: bool) -> Tensor:
    """Divergence of a student's probabilities from its teacher's, in nats.

    Args:
        student, teacher: (B, C) logits.
        temperature: divides both. The factor temperature**2 keeps the size of the gradient.
        multi_label: every class has a probability of its own; otherwise all of a clip add up to 1.

    Returns:
        A scalar, the mean over clips, and over classes too where each has its own; 0 where the two agree.

    Source: Hinton et al., Distilling the knowledge in a neural network (2015).
    """
    if multi_label:
        wanted = (teacher / temperature).sigmoid()
        least = F.binary_cross_entropy_with_logits(teacher / temperature, wanted)
        return (F.binary_cross_entropy_with_logits(student / temperature, wanted) - least) * temperature**2
    ours, theirs = ((logits / temperature).log_softmax(dim=1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def likeness_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two models see which clips of a batch are alike.

    Args:
        student, teacher: (B, D) features; the two widths may differ. The clips are those of this rank.

    Returns:
        A scalar: the mean square by which the cosine of two clips' features, less the batch's mean feature, differs.
        0 for one clip.

    Source: the relations between clips as what is taught, so that no layer has to map one width to the other (Tung and
    Mori, Similarity-preserving knowledge distillation, ICCV 2019). Without the mean taken off, all features of such a
    model are alike.
    """
    ours, theirs = (_likeness(feature) for feature in (student, teacher))
    return F.mse_loss(ours, theirs)


def _likeness(feature: Tensor) -> Tensor:
    centred = F.normalize(feature - feature.mean(dim=0), dim=1)
    return centred @ centred.T


def _same_class(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean()
