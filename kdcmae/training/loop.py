"""The training loop, the same for pretraining and finetuning, on one process or many."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import torch
from torch.distributed.tensor import DTensor

from kdcmae.checkpoints import save_checkpoint
from kdcmae.classifier import KDCMAEClassifier
from kdcmae.collectives import rank
from kdcmae.data.broken import BrokenClips
from kdcmae.disk import writing
from kdcmae.errors import ConfigError, DataError, TrainingError
from kdcmae.pretraining import KDCMAE
from kdcmae.training.distributed import gathered, mean_over_ranks, spread
from kdcmae.training.optim import WeightAverage, build_optimizer, learning_rate, select_trained
from kdcmae.training.resume import load_run_state, random_state, restore_random_state, save_run_state
from kdcmae.training.settings import Precision, TrainingSettings, changed
from kdcmae.training.tasks import Batch, Score, Task
from kdcmae.training.tracking import MetricsLog, ProgressLine, Tracker, open_tensorboard

__all__ = ["BatchSource", "Run", "Summary", "Trainer"]

MODEL_FILE = "model.safetensors"
STATE_FILE = "run_state.pt"
SETTINGS_FILE = "settings.json"
LOG_FILE = "metrics.jsonl"
_PICTURED_CLIPS = 4


class BatchSource(Protocol):
    """Where a rank's batches come from; what an epoch holds depends on its number alone."""

    @property
    def batches_per_epoch(self) -> int:
        """The same on every rank."""

    @property
    def broken(self) -> BrokenClips:
        """Clips that could not be used so far: this rank's, and the others' as far as they were counted together."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This rank's batches of an epoch, all of one size, without the first ``start``."""

    def clip_id(self, index: int) -> str:
        """The name of the clip with this index, for people."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything one training run needs.

    Args:
        model: on the CPU; it is moved and changed in place.
        task: scores the model.
        train: batches to learn from.
        validation: batches to measure after each epoch, or None.
        settings: of the training.
        output: folder for the weights, the state of the run, its settings and its log.
        identity: what else decides the losses, as plain values; a resumed run must have the same.
    """

    model: KDCMAE | KDCMAEClassifier
    task: Task
    train: BatchSource
    validation: BatchSource | None = None
    settings: TrainingSettings
    output: Path
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a run ended.

    Args:
        weights: the checkpoint it wrote.
        epochs, steps: of the whole run.
        seconds, clips_per_second: since it was last resumed.
        metrics: the last ones.
        broken: clips that could not be used since then, and why.
    """

    weights: Path
    epochs: int
    steps: int
    seconds: float
    clips_per_second: float
    metrics: dict[str, float]
    broken: dict[str, str]


@dataclasses.dataclass
class Position:
    """How far a run is, in optimiser steps."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0


class Trainer:
    """Trains a model, or goes on where a run in the same folder stopped.

    Args:
        run: what to train.
        device: of this process.
        resume: go on from the state in the run's folder, if it has one.
        progress: where the progress line goes; None for none.

    Raises:
        ConfigError: the folder already holds a run and ``resume`` is off, or the run in it had other settings;
            an epoch has no full batch.
        CheckpointError: the state in the folder is not readable.
    """

    def __init__(self, run: Run, *, device: torch.device, resume: bool, progress: TextIO | None) -> None:
        self.run, self.settings, self.device = run, run.settings, device
        self.steps_per_epoch = run.train.batches_per_epoch // self.settings.accumulation_steps
        if self.steps_per_epoch < 1:
            raise ConfigError(f"an epoch has fewer clips than batch_size={self.settings.batch_size}; lower it")
        select_trained(run.model, self.settings)
        run.model.train()
        if self.settings.compile:
            run.model.compile()
        self.spread = spread(run.model, self.settings.parallel, device)
        self.optimizer = build_optimizer(self.spread.module, self.settings)
        dtype = _autocast_dtype(self.settings.precision, device)
        self.precision = partial(_precision, device, dtype)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.average = WeightAverage()
        self.position = Position()
        self.metrics: dict[str, float] = {}
        self._pictured: Batch | None = None
        self.identity = {
            **dataclasses.asdict(self.settings),
            **{f"model.{name}": value for name, value in dataclasses.asdict(run.model.config).items()},
            **run.identity,
        }
        self._restore(resume)
        self._open_trackers(progress)

    def fit(self) -> Summary:
        """Train to the last epoch and write the final weights.

        Raises:
            TrainingError: the loss is not finite.
            DataError: the batches ran out, or more clips are broken than the limit allows.
        """
        start, first_step = time.perf_counter(), self.position.step
        with closing(self):
            while self.position.epoch < self.settings.epochs:
                self._train_epoch()
                self._end_epoch()
        seconds = time.perf_counter() - start
        clips = (self.position.step - first_step) * self.settings.batch_size
        return Summary(
            weights=self._write_weights(),
            epochs=self.position.epoch,
            steps=self.position.step,
            seconds=round(seconds, 3),
            clips_per_second=round(clips / seconds, 3),
            metrics=self.metrics,
            broken=self.run.train.broken.reasons,
        )

    def close(self) -> None:
        """Close the logs."""
        for tracker in self.trackers:
            tracker.close()

    def _train_epoch(self) -> None:
        position, accumulated = self.position, self.settings.accumulation_steps
        batches = self.run.train.batches(position.epoch, position.step_in_epoch * accumulated)
        while position.step_in_epoch < self.steps_per_epoch:
            group = [self._moved(batch) for batch in islice(batches, accumulated)]
            if len(group) < accumulated:
                raise DataError(f"epoch {position.epoch + 1} ran out of clips after step {position.step}")
            self.metrics = self._step(group)
            position.step += 1
            position.step_in_epoch += 1
            if position.step % self.settings.log_every_steps == 0 or position.step_in_epoch == self.steps_per_epoch:
                self._report({"epoch": position.epoch + 1, **self.metrics})
            # The end of an epoch saves by itself, after what follows its last step.
            if position.step % self.settings.checkpoint_every_steps == 0 and (
                position.step_in_epoch < self.steps_per_epoch
            ):
                self._save()

    def _step(self, group: list[Batch]) -> dict[str, float]:
        """One optimiser step over the batches of ``group``; what was measured, averaged over them and all ranks."""
        settings, position = self.settings, self.position
        rate = learning_rate(settings, epoch=position.epoch, step=position.step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters["factor"]
        scores = []
        for number, batch in enumerate(group):
            with self.spread.accumulating(last=number == len(group) - 1):
                with self.precision():
                    score = self.run.task.score(self.spread.model, batch, position.step * len(group) + number)
                self.scaler.scale(score.loss / len(group)).backward()
            scores.append(score)
        metrics = {**_averaged(scores), "grad_norm": self._clip()}
        # Scaled fp16 gradients overflow now and then; the scaler skips those steps by itself.
        expected = {"grad_norm"} if self.scaler.is_enabled() else set()
        if not all(math.isfinite(value) for name, value in metrics.items() if name not in expected):
            self._stop(metrics, group)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return {**metrics, "learning_rate": rate}

    def _clip(self) -> float:
        """Limit the norm of the gradient; returns what it was."""
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for parameter in self.spread.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self.settings.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self.settings.clip_grad_norm, norm)
        return norm.item()

    def _stop(self, metrics: dict[str, float], group: list[Batch]) -> None:
        """Stop before the step spoils the weights, naming the step and its clips."""
        own = [self.run.train.clip_id(index) for batch in group for index in batch["index"].tolist()]
        clips = [clip for rank_clips in gathered(own) for clip in rank_clips]
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        raise TrainingError(
            f"the loss or its gradient is not finite at step {self.position.step + 1} "
            f"(epoch {self.position.epoch + 1}): {values}; "
            f"lower learning_rate, set clip_grad_norm, or check its clips: {', '.join(clips)}"
        )

    def _end_epoch(self) -> None:
        position, first = self.position, self.settings.average_from_epoch
        if first is not None and position.epoch + 1 >= first:
            self.average.add(self.spread.model_state())
        if self.run.validation is not None:
            measured = self._validate(self.run.validation)
            self.metrics.update({f"validation_{name}": value for name, value in measured.items()})
            self._report({"epoch": position.epoch + 1, **self.metrics})
        # A picture is drawn by the first rank alone, which does not hold the whole of a sharded model.
        if self.tensorboard is not None and self._pictured is not None and self.settings.parallel != "fsdp":
            for name, picture in self.run.task.pictures(self._pictured).items():
                self.tensorboard.picture(position.step, name, picture)
        position.epoch += 1
        position.step_in_epoch = 0
        self._save()

    @torch.no_grad()
    def _validate(self, source: BatchSource) -> dict[str, float]:
        """The mean over clips of what the task measures, with the same random choices after every epoch."""
        totals: dict[str, float] = defaultdict(float)
        self.spread.model.eval()
        for number, batch in enumerate(source.batches(0, 0)):
            with self.precision():
                score = self.run.task.score(self.spread.model, self._moved(batch), number)
            for name, value in {**score.metrics, "clips": torch.ones(())}.items():
                totals[name] += value.item() * len(batch["index"])
        self.spread.model.train()
        _count_together(source.broken)
        everywhere: dict[str, float] = defaultdict(float)
        for share in gathered(dict(totals)):  # a rank may have no clips, and then no names either
            for name, total in share.items():
                everywhere[name] += total
        return {name: total / everywhere["clips"] for name, total in everywhere.items() if name != "clips"}

    def _moved(self, batch: Batch) -> Batch:
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        if self._pictured is None:
            self._pictured = {name: tensor[:_PICTURED_CLIPS] for name, tensor in moved.items()}
        return moved

    def _report(self, values: dict[str, float]) -> None:
        with writing(self.run.output):
            for tracker in self.trackers:
                tracker.scalars(self.position.step, values)

    def _open_trackers(self, progress: TextIO | None) -> None:
        """Only the first rank tells how the run goes."""
        self.trackers: list[Tracker] = []
        self.tensorboard = None
        if rank() > 0:
            return
        step = self.position.step
        self.run.output.mkdir(parents=True, exist_ok=True)
        settings = self.run.output / SETTINGS_FILE
        with writing(settings):
            settings.write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")
        self.tensorboard = open_tensorboard(self.run.output, resume_step=step)
        self.trackers = [MetricsLog(self.run.output / LOG_FILE, resume_step=step)]
        if progress is not None:
            line = ProgressLine(
                progress,
                total_steps=self.steps_per_epoch * self.settings.epochs,
                done_steps=step,
                clips_per_step=self.settings.batch_size,
                headline=self.run.task.headline,
            )
            self.trackers.append(line)
        if self.tensorboard is not None:
            self.trackers.append(self.tensorboard)

    def _save(self) -> None:
        """Every rank takes part, because shards have to be gathered; the first one writes.

        Raises:
            DataError: the ranks together found more broken clips than the limit allows; the state is saved.
        """
        state = {
            "identity": self.identity,
            "position": dataclasses.asdict(self.position),
            "metrics": self.metrics,
            "model": self.spread.model_state(),
            "optimizer": self.spread.optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
            "random": random_state(),
        }
        if rank() == 0:
            save_run_state(state, self.run.output / STATE_FILE)
        _count_together(self.run.train.broken)

    def _restore(self, resume: bool) -> None:
        path = self.run.output / STATE_FILE
        if not path.is_file():
            return
        if not resume:
            raise ConfigError(f"{self.run.output} already holds a run; go on with --resume or choose another --output")
        state = load_run_state(path)
        if differences := changed(state["identity"], self.identity):
            raise ConfigError(f"{self.run.output} holds a run with other settings: {'; '.join(differences)}")
        self.spread.load(self.optimizer, state["model"], state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        self.position = Position(**state["position"])
        self.metrics = state["metrics"]
        restore_random_state(state["random"])

    def _write_weights(self) -> Path:
        """The final weights: the average over epochs where the settings ask for it, or the last ones."""
        path = self.run.output / MODEL_FILE
        last = self.spread.model_state()
        if rank() == 0:
            with torch.device("meta"):
                model = type(self.run.model)(self.run.model.config)  # type: ignore[arg-type]
            model.load_state_dict(self.average.mean or last, assign=True)
            with writing(path):
                save_checkpoint(model, path)
        return path


def _count_together(broken: BrokenClips) -> None:
    """Count what the other ranks set aside too: each reads a part of the clips, and the limit is one of them all."""
    for reasons in gathered(broken.reasons):
        broken.add(reasons.items())


def _autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Compute in a dtype."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _averaged(scores: list[Score]) -> dict[str, float]:
    """The mean of each metric over scores and ranks."""
    names = list(scores[0].metrics)
    table = torch.stack([torch.stack([score.metrics[name].float() for name in names]) for score in scores])
    return dict(zip(names, mean_over_ranks(table.mean(dim=0)).tolist(), strict=True))
