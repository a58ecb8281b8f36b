"""The most accurate engine that meets a latency budget on this machine: precision, kept tokens, threads.

Candidates are tried from the most accurate to the least: all tokens before fewer, wide types before narrow ones. The
first that meets both the budget and the accuracy wins. Candidates that can no longer win are skipped: fewer tokens are
never more accurate, and the latency falls at most with the square of the share of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from kdcmae.compile import models, report
from kdcmae.compile.build import compile_engine
from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize.accuracy import Accuracy, Evaluation
from kdcmae.compile.settings import CompileSettings, SearchSettings
from kdcmae.compile.stages import Run
from kdcmae.errors import EngineError, GateError
from kdcmae.files import publishing
from kdcmae.progress import Step
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import Manifest
from kdcmae.timing import call_statistics, time_window

__all__ = ["Search", "Trial", "Workshop"]

Status = Literal["fits", "too slow", "too inaccurate", "not built", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate. None stands for what was not measured.

    Args:
        precision: of the matrix products.
        keep: share of the tokens.
        status: its result.
        latency_ms: 90th percentile by number of threads.
        threads: the fewest that meet the budget.
        drop: percentage points of accuracy lost; of an untrained model, the share of the clips that the engine answers
            in another way. It is measured on the clips that choose; the winner's, on the clips that did not choose it.
        interval: the 95 % interval of ``drop``.
        reason: why it was not built, failed, or is too inaccurate.
    """

    precision: str
    keep: float
    status: Status
    latency_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    threads: int | None = None
    drop: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""

    @property
    def best_ms(self) -> float | None:
        """With the best number of threads."""
        return min(self.latency_ms.values()) if self.latency_ms else None

    def __str__(self) -> str:
        return f"{self.precision}, {self.keep:.0%} of the tokens"


class Workshop:
    """What a search does with candidates on this machine: it builds, times, questions and publishes them."""

    def __init__(self, settings: SearchSettings, step: Step) -> None:
        self._settings, self._step = settings, step

    def evaluation(self, model: EngineModel) -> Evaluation:
        """The held-out clips with the model's own answers; its weights are freed."""
        with self._step("reference on held-out clips"):
            build = self._settings.build
            evaluation = Evaluation.on(model, build.quantization.evaluation, build.batch)
        models.free_weights(model)
        return evaluation

    def build(self, model: EngineModel, folder: Path, settings: CompileSettings) -> None:
        """Build one engine; the model's weights are freed once they are exported."""
        exported = partial(models.free_weights, model)
        compile_engine(model, folder, settings, step=self._step, seconds={}, exported=exported)

    def time(self, model: EngineModel, folder: Path) -> dict[str, float]:
        """90th percentile in ms by number of threads, timed in turns."""
        inputs, settings = models.examples(model, 1), self._settings
        with ExitStack() as stack, self._step("time it"):
            engines = {
                threads: stack.enter_context(load_engine(folder, threads=threads)) for threads in settings.threads
            }
            latencies: dict[int, list[float]] = {threads: [] for threads in engines}
            for _ in range(settings.rounds):
                for threads, engine in engines.items():
                    latencies[threads] += time_window(partial(engine.infer, inputs), settings.window_s)
        return {str(threads): call_statistics(calls).p90_ms for threads, calls in latencies.items()}

    @contextmanager
    def answers(self, folder: Path, threads: int) -> Iterator[Run]:
        """What runs an engine while the block lasts."""
        with load_engine(folder, threads=threads) as engine:
            yield engine.infer

    def publish(self, built: Path, folder: Path, *, threads: int, search: dict[str, Any]) -> Manifest:
        """Put an engine in its place, with the search in its manifest and the threads that an app gets by default."""
        manifest = Manifest.read(built)
        engine = {**manifest.engine, "threads": threads}
        manifest = dataclasses.replace(manifest, engine=engine, build={**manifest.build, "search": search})
        report.write(manifest, built)
        manifest = manifest.write(built)
        publishing.publish(built, folder)
        return manifest


class Search:
    """A search over the candidates of one target.

    Args:
        load: share of the tokens -> the model, such as :func:`kdcmae.compile.cli.model.load_model` gives.

    Attributes:
        trials: the candidates so far.
        accuracy: of the winner, on the clips that did not choose it.
    """

    def __init__(
        self,
        load: Callable[[float], EngineModel],
        settings: SearchSettings,
        step: Step,
        *,
        workshop: Workshop | None = None,
    ) -> None:
        self.settings = settings
        self.trials: list[Trial] = []
        self.accuracy: Accuracy | None = None
        self._load = load
        self._step = step
        self._workshop = workshop or Workshop(settings, step)

    def run(self, folder: Path) -> Manifest:
        """Build candidates until one is good enough, and publish that.

        Returns:
            Its manifest, with the search under ``build``.

        Raises:
            GateError: no candidate is good enough, and the message names the nearest; or the winner loses too much on
                the clips that did not choose it.
            KdcmaeError: the clips cannot be read, or the folder cannot be written.
        """
        publishing.check_destination(folder)
        evaluation = self._workshop.evaluation(self._load(1.0))
        with publishing.staging(folder) as scratch:
            for keep in self.settings.ratios:
                for precision in self.settings.precisions:
                    built = scratch / f"{precision}-{keep}"
                    trial = self._try(precision, keep, built, evaluation)
                    self.trials.append(trial)
                    if trial.status == "fits":
                        return self._publish(built, folder, self._confirmed(built, trial, evaluation))
        raise GateError(self._nearest())

    def _try(self, precision: str, keep: float, folder: Path, evaluation: Evaluation) -> Trial:
        trial = Trial(precision=precision, keep=keep, status="not built", reason=self._hopeless(precision, keep))
        if trial.reason:
            return trial
        # What a candidate may lose counts for all of it, not for its quantisation alone.
        quantization = dataclasses.replace(self.settings.build.quantization, max_drop=None, searched=True)
        settings = dataclasses.replace(self.settings.build, precision=precision, quantization=quantization)
        model = self._load(keep)
        try:
            with self._step(f"try {trial}"):
                self._workshop.build(model, folder, settings)
        except (EngineError, GateError) as error:
            return dataclasses.replace(trial, status="failed", reason=str(error))
        latency = self._workshop.time(model, folder)
        trial = dataclasses.replace(trial, latency_ms=latency)
        fitting = [int(threads) for threads, p90_ms in latency.items() if p90_ms <= self.settings.budget_ms]
        if not fitting:
            return dataclasses.replace(trial, status="too slow")
        try:
            with self._step("classify clips"), self._workshop.answers(folder, max(self.settings.threads)) as run:
                accuracy = evaluation.choose(run)
        except GateError as error:
            return dataclasses.replace(trial, status="failed", reason=str(error))
        problem = accuracy.problem(self.settings.max_drop)
        status: Status = "too inaccurate" if problem else "fits"
        return dataclasses.replace(_measured(trial, accuracy), status=status, threads=min(fitting), reason=problem)

    def _confirmed(self, built: Path, winner: Trial, evaluation: Evaluation) -> Trial:
        """The winner with what it loses on the clips that did not choose it."""
        assert winner.threads is not None
        with self._step("classify the other clips"), self._workshop.answers(built, winner.threads) as run:
            self.accuracy = evaluation.report(run)
        winner = self.trials[-1] = _measured(winner, self.accuracy)
        if problem := self.accuracy.problem(self.settings.max_drop):
            raise GateError(f"{winner} fits on the clips that chose it, and not on the others: {problem}")
        return winner

    def _hopeless(self, precision: str, keep: float) -> str:
        """Why a candidate cannot win, from the results of earlier ones; empty if it can."""
        order = self.settings.precisions
        for trial in self.trials:
            worse = order.index(precision) >= order.index(trial.precision) and keep <= trial.keep
            if trial.status == "too inaccurate" and worse:
                return f"{trial} is more accurate and loses {_lost(trial)}"
            if trial.precision == precision and trial.best_ms is not None:
                bound_ms = trial.best_ms * (keep / trial.keep) ** 2
                if bound_ms > self.settings.budget_ms:
                    return f"at best {bound_ms:.3g} ms: {trial} takes {trial.best_ms:.3g} ms"
        return ""

    def _publish(self, built: Path, folder: Path, winner: Trial) -> Manifest:
        settings = self.settings
        facts = {
            "budget_ms": settings.budget_ms,
            "max_drop": settings.max_drop,
            "evaluation": str(settings.build.quantization.evaluation),
            "threads": winner.threads,
            **({} if self.accuracy is None else {"accuracy": self.accuracy.to_dict()}),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }
        assert winner.threads is not None
        return self._workshop.publish(built, folder, threads=winner.threads, search=facts)

    def _nearest(self) -> str:
        """The candidate nearest to the accuracy, or else the one nearest to the budget, in words."""
        slow = [trial for trial in self.trials if trial.status == "too slow"]
        inaccurate = [trial for trial in self.trials if trial.status == "too inaccurate"]
        wanted = f"no engine takes {self.settings.budget_ms:g} ms and loses {self.settings.max_drop:g} points"
        if inaccurate:
            nearest = min(inaccurate, key=lambda trial: (trial.interval or (0.0, 0.0))[1])
            return f"{wanted}; nearest: {nearest} takes {nearest.best_ms:.3g} ms; {nearest.reason}"
        if slow:
            nearest = min(slow, key=lambda trial: trial.best_ms or 0.0)
            return f"{wanted}; nearest: {nearest} takes {nearest.best_ms:.3g} ms"
        reasons = "; ".join(f"{trial}: {trial.reason}" for trial in self.trials)
        return f"{wanted}; none could be built: {reasons}"


def _measured(trial: Trial, accuracy: Accuracy) -> Trial:
    loss = accuracy.loss
    return dataclasses.replace(trial, drop=loss.points, interval=(loss.low, loss.high))


def _lost(trial: Trial) -> str:
    assert trial.interval is not None
    return f"{trial.drop:.1f} points, {trial.interval[0]:.1f} to {trial.interval[1]:.1f}"
