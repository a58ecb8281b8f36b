"""Reports of a run: one JSON line per logged step, TensorBoard if installed, and lines on a terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import click
import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.extras import is_installed
from kdcmae.files.replacing import replacing
from kdcmae.terminal import note, say
from kdcmae.training.validation import Validation

__all__ = [
    "EpochEnd",
    "MetricsLog",
    "ProgressLine",
    "TensorBoardTracker",
    "Tracker",
    "open_tensorboard",
    "read_metrics",
]

_SECONDS_BETWEEN_LINES = 30


Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochEnd:
    """How an epoch ended.

    Args:
        epoch, epochs: its number, from 1, and the total.
        step: optimiser steps so far.
        loss: mean over the epoch's steps; after a resume over those since.
        metrics: the last step's, and the validation's as ``validation_...``.
        validation: results; None without validation data.
        best: it is the best epoch so far.
        clips_per_second: of training, without validation.
        pictures: of a few clips, by name.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    metrics: Mapping[str, float]
    validation: Validation | None
    best: bool
    clips_per_second: float
    pictures: Mapping[str, Picture]


class Tracker(Protocol):
    """Receives the progress of a run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Measurements after ``step`` optimiser steps."""

    def epoch(self, ending: EpochEnd) -> None:
        """An epoch ended."""

    def close(self) -> None: ...


class MetricsLog:
    """A JSON Lines file with one object per logged step; values that are not finite are null.

    Args:
        resume_step: lines of later steps, which a killed run wrote after its last saved state, are dropped.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        kept = [json.dumps(line) for line in read_metrics(path) if line["step"] <= resume_step]
        with replacing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")

    def epoch(self, ending: EpochEnd) -> None:
        if ending.validation is not None:
            self.scalars(ending.step, ending.metrics)

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics log; an incomplete last line is left out.

    Raises:
        DataError: another line is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: {error}; remove the file") from error
    return metrics


class TensorBoardTracker:
    """Scalars and pictures for TensorBoard.

    Args:
        resume_step: entries of later steps, from a killed run, are hidden.
    """

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def epoch(self, ending: EpochEnd) -> None:
        if ending.validation is not None:
            self.scalars(ending.step, ending.metrics)
        for name, picture in ending.pictures.items():
            self.picture(ending.step, name, picture)

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Log a picture."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class ProgressLine:
    """A line per epoch; between them a live bar on a terminal, and elsewhere a line every half minute.

    Args:
        stream: usually stderr.
        total_steps: of the whole run.
        done_steps: before this process.
        clips_per_step: over all ranks.
        headline: the metrics to show while an epoch runs.
        validated: the validation's metrics to show after it.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        total_steps: int,
        done_steps: int,
        clips_per_step: int,
        headline: tuple[str, ...],
        validated: tuple[str, ...],
    ) -> None:
        self._stream, self._headline, self._validated = stream, headline, validated
        self._clips_per_step = clips_per_step
        self._first_step, self._total_steps = done_steps, total_steps
        self._start = self._last_line = time.perf_counter()
        self._live = stream.isatty()
        self._bar: click._termui_impl.ProgressBar[str]
        self._bar = click.progressbar(
            length=total_steps,
            label="step",
            show_pos=True,
            show_eta=False,  # in a resumed run it would count earlier steps
            item_show_func=lambda line: line,
            hidden=not self._live,
            width=20,
            file=stream,
        )
        self._bar.update(done_steps)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = time.perf_counter()
        shown = [f"{name} {values[name]:.4g}" for name in self._headline]
        speed = f"{(step - self._first_step) / max(now - self._start, 1e-9) * self._clips_per_step:.1f} clips/s"
        line = "  ".join([*shown, speed, self._left(step)])
        self._bar.update(step - self._bar.pos, line)
        if not self._live and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            say(f"step {step}/{self._total_steps}  {line}", stream=self._stream)

    def epoch(self, ending: EpochEnd) -> None:
        """Print the epoch's line; the bar goes on below it with the next step."""
        measured = {} if ending.validation is None else ending.validation.metrics
        shown = [f"{name} {measured[name]:.4g}" for name in self._validated if name in measured]
        line = [
            f"epoch {ending.epoch}/{ending.epochs}",
            f"loss {ending.loss:.4g}",
            *([f"validation: {', '.join(shown)}{' (best)' if ending.best else ''}"] if shown else []),
            f"lr {ending.metrics['learning_rate']:.3g}",
            f"{ending.clips_per_second:.1f} clips/s",
            self._left(ending.step),
        ]
        self._last_line = time.perf_counter()
        note("  ".join(line), stream=self._stream)

    def _left(self, step: int) -> str:
        """The time to the end of the run at the pace since this process began, validation included."""
        seconds = (time.perf_counter() - self._start) / max(step - self._first_step, 1) * (self._total_steps - step)
        return f"{seconds / 60:.1f} min left"

    def close(self) -> None:
        self._bar.render_finish()


def open_tensorboard(output: Path, *, resume_step: int) -> TensorBoardTracker | None:
    """TensorBoard's log of a run, or None if it is not installed."""
    if not is_installed("tensorboard"):
        return None
    return TensorBoardTracker(output / "tensorboard", resume_step=resume_step)
