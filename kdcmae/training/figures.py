"""Pictures of a run, updated after every epoch: curves, the confusion matrix, and a few clips.

They are PNG files in the run's folder; TensorBoard gets the confusion matrix too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcmae.data.images import write_image
from kdcmae.drawing.charts import Line
from kdcmae.drawing.matrices import MOST_CELLS
from kdcmae.extras import is_installed
from kdcmae.files.replacing import replacing
from kdcmae.training.tracking import EpochEnd, Picture, read_metrics
from kdcmae.training.validation import Confusion, Criterion

__all__ = ["CURVES_FILE", "FigureTracker", "confusion_picture", "curves_picture", "open_figures", "training_label"]

CURVES_FILE = "curves.png"
_CONFUSION = "confusion"
_POINTS = 100  # of a curve over steps; more of them are averaged


class FigureTracker:
    """Draws the pictures of a run.

    Args:
        log: the metrics log of the run, written before the epoch is drawn.
        criterion: which curve tells the best epoch.
        measured: names of the metrics with a curve, beside the learning rate.
        trained: label of the training curve.
        show: also gets each picture, with a step and a name, for TensorBoard.
    """

    def __init__(
        self,
        log: Path,
        *,
        steps_per_epoch: int,
        criterion: Criterion,
        measured: tuple[str, ...],
        trained: str,
        show: Callable[[int, str, Picture], None] | None,
    ) -> None:
        self._log, self._steps_per_epoch, self._show, self._trained = log, steps_per_epoch, show, trained
        self._criterion, self._measured = criterion, measured

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing is drawn within an epoch."""

    def epoch(self, ending: EpochEnd) -> None:
        lines = read_metrics(self._log)
        curves = curves_picture(lines, self._steps_per_epoch, self._criterion, self._measured, self._trained)
        _write(self._log.with_name(CURVES_FILE), curves)
        for name, picture in ending.pictures.items():
            _write(self._log.with_name(f"{name}.png"), picture)
        if ending.validation is not None and ending.validation.confusion is not None:
            confusion = confusion_picture(ending.validation.confusion, f"validation after epoch {ending.epoch}")
            _write(self._log.with_name(f"{_CONFUSION}.png"), confusion)
            if self._show is not None:
                self._show(ending.step, _CONFUSION, confusion)

    def close(self) -> None:
        """Does nothing: every picture is complete."""


def open_figures(
    log: Path,
    *,
    steps_per_epoch: int,
    criterion: Criterion,
    measured: tuple[str, ...],
    trained: str,
    show: Callable[[int, str, Picture], None] | None,
) -> FigureTracker | None:
    """The pictures of a run, if Pillow is installed; arguments as of :class:`FigureTracker`."""
    if not is_installed("PIL"):
        return None
    return FigureTracker(
        log, steps_per_epoch=steps_per_epoch, criterion=criterion, measured=measured, trained=trained, show=show
    )


def training_label(identity: Mapping[str, Any]) -> str:
    """Label of the training curve; unlike validation, training may smooth labels and mix clips.

    Args:
        identity: of the run: its settings, and its augmentation as ``data.augmentation``.
    """
    augmentation = identity.get("data.augmentation", {})
    varied = {"smoothed": identity.get("label_smoothing"), "mixed": augmentation.get("mixup_rate")}
    words = ", ".join(word for word, share in varied.items() if share)
    return f"training ({words})" if words else "training"


def curves_picture(
    lines: Sequence[Mapping[str, Any]],
    steps_per_epoch: int,
    criterion: Criterion,
    measured: tuple[str, ...],
    training: str,
) -> Picture:
    """Curves of the metrics and the learning rate over epochs, one below the other.

    Args:
        criterion: the title of its metric tells the best epoch.
        measured: names of metrics, the criterion's among them.
        training: label of the training curve.
    """
    from kdcmae.drawing.figures import lines_figure

    panels = []
    for name in (*measured, "learning_rate"):
        trained, validated = (
            tuple((line["step"] / steps_per_epoch, line[key]) for line in chosen if line.get(key) is not None)
            for key, chosen in (
                (name, [line for line in lines if "validation_loss" not in line]),
                (f"validation_{name}", lines),
            )
        )
        label = training if name in measured else "training"
        title, shown = name.replace("_", " "), {label: _thinned(trained), "validation": validated}
        if validated and name == criterion.metric:
            pick = max if criterion.higher_is_better else min
            epoch, value = pick(validated, key=lambda point: point[1])
            title += f", best after epoch {epoch:.0f}: {value:.4g}"
        series = [Line(label=label, points=points) for label, points in shown.items() if points]
        panels.append(lines_figure(title, series, x_label="epochs", y_label=name.replace("_", " ")))
    return np.concatenate(panels)


def confusion_picture(confusion: Confusion, title: str) -> Picture:
    """The confusion matrix.

    Args:
        confusion: of at least one clip. Of many classes, those confused most often are shown.
    """
    from kdcmae.drawing.figures import confusion_figure

    counts = confusion.counts
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CELLS])
    if len(shown) < len(counts):
        title += f"; the {MOST_CELLS} of {len(counts)} classes that are confused most"
    return confusion_figure(title, [confusion.labels[index] for index in shown], counts[np.ix_(shown, shown)])


def _thinned(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """A curve with at most :data:`_POINTS` points, which are means of neighbours."""
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(np.array(points, dtype=np.float64), _POINTS)
    return tuple((float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts)


def _write(path: Path, picture: Picture) -> None:
    with replacing(path) as partial:
        write_image(partial, picture)
