"""The training loop, the same for pretraining and finetuning, on one process or many."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, TextIO

import torch
from torch.distributed.tensor import DTensor

from kdcmae.collectives import rank
from kdcmae.errors import CheckpointError, ConfigError, DataError, TrainingError, cause
from kdcmae.files.disk import writing
from kdcmae.files.replacing import replacing
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.training.distributed import gathered, mean_over_ranks, spread
from kdcmae.training.figures import open_figures, training_label
from kdcmae.training.kept_weights import KeptWeights
from kdcmae.training.optim import build_optimizer, learning_rate, select_trained
from kdcmae.training.resume import load_run_state, random_state, restore_random_state, save_run_state
from kdcmae.training.run import BatchSource, Position, Run, Summary
from kdcmae.training.settings import HELD_OUT, Precision, changed
from kdcmae.training.tasks import Batch, Score
from kdcmae.training.tracking import EpochEnd, MetricsLog, ProgressLine, Tracker, open_tensorboard
from kdcmae.training.validation import Validation, count_together, validate
from kdcmae.training.weight_files import MODEL_FILE, Final, remove_partial, require_finite, write_weights

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

STATE_FILE = "run_state.pt"
SETTINGS_FILE = "settings.json"
LOG_FILE = "metrics.jsonl"
_PICTURED_CLIPS = 4


class Trainer:
    """Trains a model, or resumes the run in the same folder.

    Args:
        resume: continue from the state in the run's folder, if there is one.
        progress: stream for progress lines; None prints none and draws no pictures.

    Raises:
        ConfigError: the folder already holds a run and ``resume`` is off, or the run in it had other settings;
            an epoch has no full batch; or early stopping is on without validation data.
        CheckpointError: the state in the folder is not readable.
    """

    def __init__(self, run: Run, *, device: torch.device, resume: bool, progress: TextIO | None) -> None:
        self.run, self.settings, self.device = run, run.settings, device
        self.steps_per_epoch = run.train.batches_per_epoch // self.settings.accumulation_steps
        if self.steps_per_epoch < 1:
            raise ConfigError(f"an epoch has fewer clips than batch_size={self.settings.batch_size}; lower it")
        if self.settings.early_stop_epochs is not None and run.validation is None:
            raise ConfigError(
                f"early_stop_epochs={self.settings.early_stop_epochs} watches the validation metric, and there are no "
                "clips to measure; give --validation"
            )
        select_trained(run.model, self.settings)
        run.model.train()
        if self.settings.compile:
            run.model.compile()
        self.spread = spread(run.model, self.settings.parallel, device)
        self.optimizer = build_optimizer(self.spread.module, self.settings)
        dtype = _autocast_dtype(self.settings.precision, device)
        self.precision = partial(_precision, device, dtype)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.kept = KeptWeights(run.model, run.task.criterion, self.settings, run.output)
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
        """Train to the last epoch, or until early stopping, and write the final weights.

        Raises:
            TrainingError: the loss, what is computed of a validation clip, or a weight is not finite. Files written
                before remain.
            DataError: the batches ran out, or more clips are broken than the limit allows.
        """
        start, first_step = time.perf_counter(), self.position.step
        with closing(self):
            while self.position.epoch < self.settings.epochs and not self.stopped_early:
                self._end_epoch(*self._train_epoch())
        seconds = time.perf_counter() - start
        clips = (self.position.step - first_step) * self.settings.batch_size
        final = self._finish()
        return Summary(
            weights=self.run.output / MODEL_FILE,
            final=final,
            best=self.kept.best,
            epochs=self.position.epoch,
            steps=self.position.step,
            stopped_early=self.stopped_early and self.position.epoch < self.settings.epochs,
            seconds=round(seconds, 3),
            clips_per_second=round(clips / seconds, 3),
            metrics=self.metrics,
            broken=self.run.train.broken.reasons,
        )

    @property
    def stopped_early(self) -> bool:
        """Whether the metric has not improved for as many epochs as the settings allow."""
        return self.kept.is_stale(self.position.epoch)

    def close(self) -> None:
        """Close the logs."""
        for tracker in self.trackers:
            tracker.close()

    def _train_epoch(self) -> tuple[float, float]:
        """The rest of an epoch: its mean loss and its clips per second."""
        position, accumulated = self.position, self.settings.accumulation_steps
        batches = self.run.train.batches(position.epoch, position.step_in_epoch * accumulated)
        start, losses = time.perf_counter(), []
        while position.step_in_epoch < self.steps_per_epoch:
            group = [self._moved(batch) for batch in islice(batches, accumulated)]
            if len(group) < accumulated:
                raise DataError(f"epoch {position.epoch + 1} ran out of clips after step {position.step}")
            self.metrics = self._step(group)
            losses.append(self.metrics["loss"])
            position.step += 1
            position.step_in_epoch += 1
            if position.step % self.settings.log_every_steps == 0 or position.step_in_epoch == self.steps_per_epoch:
                with writing(self.run.output):
                    for tracker in self.trackers:
                        tracker.scalars(position.step, {"epoch": position.epoch + 1, **self.metrics})
            # The end of an epoch saves the state itself, after validation.
            if position.step % self.settings.checkpoint_every_steps == 0 and (
                position.step_in_epoch < self.steps_per_epoch
            ):
                self._save(self._whole_state())
        seconds = time.perf_counter() - start
        return math.fsum(losses) / max(len(losses), 1), len(losses) * self.settings.batch_size / seconds

    def _step(self, group: list[Batch]) -> dict[str, float]:
        """One optimiser step over the batches of ``group``; returns its metrics, averaged over them and all ranks."""
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
        # Scaled fp16 gradients sometimes overflow; the scaler skips those steps.
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

    def _end_epoch(self, loss: float, clips_per_second: float) -> None:
        """Validate, write weights and state, and report; ``loss`` is the mean over the epoch's steps."""
        position, number = self.position, self.position.epoch + 1
        state = self._whole_state()
        validation = None if self.run.validation is None else self._validate(self.run.validation)
        if validation is not None:
            self.metrics.update({f"validation_{name}": value for name, value in validation.metrics.items()})
        best = self.kept.end_epoch(number, state, None if validation is None else validation.metrics)
        ending = EpochEnd(
            epoch=number,
            epochs=self.settings.epochs,
            step=position.step,
            loss=loss,
            metrics={"epoch": number, **self.metrics},
            validation=validation,
            best=best,
            clips_per_second=clips_per_second,
            pictures=self._pictures(),
        )
        with writing(self.run.output):
            for tracker in self.trackers:
                tracker.epoch(ending)
        position.epoch += 1
        position.step_in_epoch = 0
        self._save(state)

    def _validate(self, source: BatchSource) -> Validation:
        return validate(self.run.task, self.spread, source, moved=self._on_device, precision=self.precision)

    def _pictures(self) -> dict[str, Any]:
        """Pictures of a few clips, on the first rank; none for a sharded model, which no rank holds completely."""
        if rank() > 0 or self._pictured is None or self.settings.parallel == "fsdp":
            return {}
        return self.run.task.pictures(self._pictured)

    def _whole_state(self) -> dict[str, Any]:
        """All weights on the CPU, at least on the first rank.

        Raises:
            TrainingError: they are no longer finite; files written before remain.
        """
        state = self.spread.model_state()
        problem = None
        try:
            require_finite(state, self.run.output)
        except TrainingError as error:
            problem = str(error)
        for message in filter(None, gathered(problem)):
            raise TrainingError(message)
        return state

    def _on_device(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _moved(self, batch: Batch) -> Batch:
        moved = self._on_device(batch)
        if self._pictured is None:
            self._pictured = {name: tensor[:_PICTURED_CLIPS] for name, tensor in moved.items()}
        return moved

    def _open_trackers(self, progress: TextIO | None) -> None:
        """Open the trackers on the first rank only."""
        self.trackers: list[Tracker] = []
        if rank() > 0:
            return
        self.run.output.mkdir(parents=True, exist_ok=True)
        remove_partial(self.run.output)
        settings = self.run.output / SETTINGS_FILE
        with writing(settings), replacing(settings) as partial:
            partial.write_text(json.dumps(self.identity, indent=1) + "\n", encoding="utf-8")
        step = self.position.step
        log = self.run.output / LOG_FILE
        self.trackers = [MetricsLog(log, resume_step=step)]
        if progress is not None:
            line = ProgressLine(
                progress,
                total_steps=self.steps_per_epoch * self.settings.epochs,
                done_steps=step,
                clips_per_step=self.settings.batch_size,
                headline=self.run.task.headline,
                validated=self.run.task.validated,
            )
            self.trackers.append(line)
        tensorboard = open_tensorboard(self.run.output, resume_step=step)
        if progress is not None:
            figures = open_figures(
                log,
                steps_per_epoch=self.steps_per_epoch,
                criterion=self.run.task.criterion,
                measured=self.run.task.validated,
                trained=training_label(self.identity),
                show=None if tensorboard is None else tensorboard.picture,
            )
            self.trackers += [] if figures is None else [figures]
        self.trackers += [] if tensorboard is None else [tensorboard]

    def _save(self, weights: dict[str, Any]) -> None:
        """Every rank takes part, because shards have to be gathered; the first one writes.

        Raises:
            DataError: the ranks together found more broken clips than the limit allows; the state is saved.
        """
        state = {
            "identity": self.identity,
            "position": dataclasses.asdict(self.position),
            "metrics": self.metrics,
            "model": weights,
            "optimizer": self.spread.optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
            **self.kept.state_dict(),
            "random": random_state(),
        }
        if rank() == 0:
            save_run_state(state, self.run.output / STATE_FILE)
        count_together(self.run.train.broken)

    def _restore(self, resume: bool) -> None:
        path = self.run.output / STATE_FILE
        if not path.is_file():
            return
        if not resume:
            raise ConfigError(f"{self.run.output} already holds a run; go on with --resume or choose another --output")
        state = load_run_state(path)
        if differences := changed(state["identity"], self.identity):
            raise ConfigError(f"{self.run.output} holds a run with other settings: {'; '.join(differences)}")
        try:
            self.spread.load(self.optimizer, state["model"], state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.kept.load_state_dict(state)
            self.position = Position(**state["position"])
            self.metrics = state["metrics"]
            restore_random_state(state["random"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} was written by another version of kdcmae ({cause(error)}): finish the run with that one, or "
                "choose another --output"
            ) from error
        self._forget_other_clips(state["identity"].get(HELD_OUT))

    def _forget_other_clips(self, measured: str | None) -> None:
        """Forget the best epoch if it was measured on other validation clips than the run has now."""
        best = self.kept.best
        if best is None or self.run.validation is None or measured == self.identity.get(HELD_OUT):
            return
        self.kept.best = None
        if rank() == 0:
            logger.warning(
                "the validation clips are not those that epoch %d was best on, with %s %.4g: from now on the best one "
                "is chosen among the epochs measured on the new clips",
                best.epoch,
                best.metric,
                best.value,
            )

    def _finish(self) -> Final:
        """Write the final weights, and validate them if no epoch had the same weights."""
        final, state = self.kept.final(self.position.epoch)
        measured = {}
        if final.weights == "average":
            self.spread.load_model(state)
            if self.run.validation is not None:
                validation = self._validate(self.run.validation)
                measured = {f"average_{name}": value for name, value in validation.metrics.items()}
        elif final.weights == "last":
            state = self._whole_state()
        self.metrics = {**self.metrics, **measured}
        if rank() == 0:
            facts = {**dataclasses.asdict(final), **measured}
            write_weights(state, self.run.model, self.run.output / MODEL_FILE, facts)
        return final


def _autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].torch)
    return dtype


def _precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Compute in a dtype."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _averaged(scores: list[Score]) -> dict[str, float]:
    """The mean of each metric over scores and ranks."""
    names = list(scores[0].metrics)
    table = torch.stack([torch.stack([score.metrics[name].float() for name in names]) for score in scores])
    return dict(zip(names, mean_over_ranks(table.mean(dim=0)).tolist(), strict=True))
