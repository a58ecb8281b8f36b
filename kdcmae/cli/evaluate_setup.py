"""Options of every task of ``kdcmae evaluate``, and the output of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli import evaluate_report as report
from kdcmae.cli.common import Number, json_option, note, weights_option
from kdcmae.cli.normalisation import NAMES, statistics_options
from kdcmae.errors import ConfigError, DataError
from kdcmae.predictors import BATCH_SIZE, Predictor, Task, is_engine, open_model, refuse_checkpoint_options
from kdcmae.terminal import progress_bar

if TYPE_CHECKING:
    from kdcmae.config import Modality
    from kdcmae.data.dataset import Frames
    from kdcmae.data.manifest import LabelMap
    from kdcmae.evaluation.clips import EvaluationClips
    from kdcmae.evaluation.pages import Pictures
    from kdcmae.pretraining import KDCMAE
    from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["COMMON_OPTIONS", "PATH", "Outcome", "Setup", "labels_option", "modality_option", "watched"]

PATH = click.Path(path_type=Path)

_MOST_PICTURES = 24  # on a page


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Command line options of every task."""

    model: Path
    data: str
    output: Path | None
    batch_size: int
    workers: int
    broken_limit: float
    device: str
    num_heads: int | None
    weights: str | None
    fbank_mean: float | None
    fbank_std: float | None
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    mono: str | None
    pictures: int
    page: bool
    as_json: bool

    def check(self, *more_data: str) -> None:
        """Refuse files that are not there before PyTorch loads, and make the output folder before anything is measured.

        Args:
            more_data: clips that the task reads beside ``--data``.

        Raises:
            EngineError: the model is a folder that is no engine.
            ConfigError: no model there, an option of checkpoints beside an engine, no number of clips behind
                ``avsynth:``, or ``--output`` cannot be a folder.
            DataError: the clips are not there.
        """
        from kdcmae.data.avsynth.naming import names_avsynth

        if not self.model.exists():
            raise ConfigError(f"{self.model}: no such file or folder; check the path")
        if is_engine(self.model):
            refuse_checkpoint_options(self.model, [*self.overrides, *(["device"] if self.device != "auto" else [])])
        for data in (self.data, *more_data):
            if not names_avsynth(data) and not Path(data).exists():
                raise DataError(f"{data}: no such file or folder of clips; check the path")
        if self.output is not None:
            try:
                self.output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--output {self.output}: {error.strerror}; name another folder") from error

    @property
    def overrides(self) -> dict[str, Any]:
        """Options about a checkpoint that were given."""
        said = {name: getattr(self, name) for name in ("num_heads", "weights", *NAMES)}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def shown(self) -> int:
        """Maximum number of examples in a report, and of clips with pictures on its page."""
        return min(self.pictures, _MOST_PICTURES)

    @property
    def writes_page(self) -> bool:
        """Whether a page is written."""
        return self.page and self.output is not None

    def clips(
        self,
        preprocessing: Preprocessing,
        labels: LabelMap | None,
        *,
        train: str | None = None,
        modality: Modality = "audiovisual",
        frames: Frames = "middle",
    ) -> EvaluationClips:
        """The clips of ``--data``, or those to fit on."""
        from kdcmae.data.dataset import DatasetSettings
        from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings

        return EvaluationClips(
            train or self.data,
            labels,
            DatasetSettings(preprocessing=preprocessing, modality=modality, frames=frames),
            LoaderSettings(batch_size=self.batch_size, workers=self.workers, broken_limit=self.broken_limit),
            split="test" if train is None else "train",
        )

    def open(self, task: Task, **overrides: Any) -> Predictor:
        """The model, ready to evaluate; ``overrides`` provide facts that a checkpoint's file lacks."""
        return open_model(
            self.model, task=task, device=self.device, batch_size=self.batch_size, **self.overrides, **overrides
        )

    def pretrained(self, **overrides: Any) -> tuple[KDCMAE, Preprocessing]:
        """The module and the preprocessing of a pretraining checkpoint; ``overrides`` as of :meth:`open`."""
        opened = open_model(
            self.model, task="features", device=self.device, engine=False, **self.overrides, **overrides
        )
        return opened.module, opened.facts.preprocessing

    def finish(self, outcome: Outcome, clips: EvaluationClips) -> None:
        """Print the report, and write it to ``--output``."""
        skipped = [{"clip": clip, "reason": reason} for clip, reason in clips.skipped.items()]
        document = {
            "task": outcome.task,
            "model": {"path": str(self.model), "runs_on": outcome.runs_on},
            "data": {"manifest": self.data, "clips": len(clips.records) - len(skipped), "skipped": skipped},
            "settings": outcome.settings,
            "result": None if outcome.result is None else asdict(outcome.result),
            **outcome.details,
        }
        pictures = outcome.pictures if self.writes_page else None
        report.publish(document, self.output, pictures, as_json=self.as_json)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a task.

    Args:
        task: its name.
        runs_on: what computed it.
        result: the figures, a dataclass; None where nothing could be scored.
        settings: of the task.
        details: further parts of the report, such as ``intervals`` and ``examples``.
        pictures: of the examples, for the page.
    """

    task: str
    runs_on: str
    result: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=dict)


COMMON_OPTIONS = (
    click.option(
        "--data", required=True, help="Manifest (.json, .csv, .jsonl), .tar shard, folder of them, or avsynth[:CLIPS]."
    ),
    click.option("--output", type=PATH, help="Folder for TASK.json, the page TASK.html and pictures."),
    click.option(
        "--pictures",
        type=click.IntRange(min=0),
        default=16,
        show_default=True,
        help=f"Clips to show; a page has room for {_MOST_PICTURES}.",
    ),
    click.option("--page/--no-page", default=True, help="Write the page beside the JSON file."),
    click.option(
        "--batch-size", type=click.IntRange(min=1), default=BATCH_SIZE, show_default=True, help="Clips at once."
    ),
    click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read."),
    click.option(
        "--broken-limit", type=Number(0, 1), default=0.01, show_default=True, help="Share of clips that may fail."
    ),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Device of a checkpoint."
    ),
    click.option("--num-heads", type=int, help="Attention heads of a checkpoint.", show_default="each 64 wide"),
    weights_option,
    statistics_options,
    json_option,
)


labels_option = click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Classes, where the model has none: text or CSV.",
)
modality_option = click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="Modality of a checkpoint.",
    show_default="what its file says",
)


def watched(clips: EvaluationClips) -> Iterator[Any]:
    """The batches, with a progress bar; prints the skipped clips at the end."""
    with progress_bar("evaluate", len(clips)) as on_batch:
        for batch in clips:
            yield batch
            on_batch()
    for clip, reason in clips.skipped.items():
        note(f"skipped {clip}: {reason}")
