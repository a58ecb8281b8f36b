"""One subject on its way through an interleaved run, from loading to its row in the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.machine.state import EnergyCounter
from kdcmae.bench.report.records import Case, Energy, Parity, Row, SelfTestResult, Settings, Speed, Status, failure_of
from kdcmae.bench.run.sources import Source
from kdcmae.bench.run.subjects import Facts
from kdcmae.bench.run.timing import Latency, settled, speed_ratio, summarize, verdict
from kdcmae.bench.run.worker import FirstInference, Loaded, Memory, Session, Worker
from kdcmae.compile.parity import relative_error
from kdcmae.errors import ConfigError, DeviceError, EngineError
from kdcmae.runtime import SelfTest

__all__ = ["Contender", "Entry"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A subject that takes part.

    Args:
        source: what :func:`kdcmae.bench.run.sources.open_subject` opens.
        subject: its name in the report.
        model: whose subject it is.
        engine: the subject whose engine folder it runs, see :attr:`kdcmae.bench.report.records.Row.engine`.
    """

    source: str
    subject: str
    model: str = ""
    engine: str | None = None


@dataclass(kw_only=True)
class Contender:
    """A subject, its worker and what is known so far. Once it has failed, its worker is gone and it only has a row.

    Args:
        entry: what takes part.
        worker: of this subject.
        settings: of the benchmark.
        counter: of energy, or why there is none.
        call_s: duration of a call, measured during the warm-up.
    """

    entry: Entry
    worker: Worker
    settings: Settings
    counter: EnergyCounter | str
    call_s: float = 0.0
    _joules: float = 0.0
    _status: Status = "measured"
    _reason: str = ""
    _loaded: Loaded | None = None
    _first: FirstInference | None = None
    _self_test: SelfTestResult | None = None
    _windows_ms: list[list[float]] = field(default_factory=list)
    _latency: Latency | None = None
    _memory: Memory = field(default_factory=Memory)

    @property
    def running(self) -> bool:
        """Whether nothing has failed so far."""
        return self._status == "measured"

    @property
    def facts(self) -> Facts:
        """Facts of the subject, known once it is loaded."""
        assert self._loaded is not None
        return self._loaded.facts

    def load(self) -> None:
        """Load the subject."""
        with self._failures_noted():
            self._loaded = self.worker.ask(Session.load)

    def require_batch(self) -> None:
        """Refuse a batch size that the subject does not take.

        Raises:
            ConfigError: it does not take the settings'.
        """
        sizes, batch = self.facts.batch, self.settings.batch
        if sizes is not None and not sizes.min <= batch <= sizes.max:
            raise ConfigError(f"{self.entry.source} takes batches of {sizes.min} to {sizes.max}, not --batch {batch}")

    def check(self) -> None:
        """First inference, whose outputs the parity is about, and self-test."""
        with self._failures_noted():
            self._first = self.worker.ask(Session.first_inference, self.settings.batch, self.settings.seed)
            result = self.worker.ask(Session.self_test)
            if result is None:
                return
            self._self_test = _summary(result)
            if not result.passed:
                raise EngineError(f"its self-test failed: {result}; not timed")

    def warm_up(self) -> None:
        """Run without counting, and measure a call."""
        with self._failures_noted():
            self.call_s = float(np.median(self.worker.ask(Session.window, self.settings.warm_up_s))) / 1e3

    def take_turn(self, window_s: float) -> None:
        """Run one window."""
        with self._failures_noted():
            before = self._energy()
            self._windows_ms.append(self.worker.ask(Session.window, window_s))
            self._joules += self._energy() - before

    def settled(self, rounds: Sequence[int]) -> bool:
        """Whether its windows of these rounds agree, as far as it still runs."""
        return not self.running or settled([self._windows_ms[number] for number in rounds])

    def finish(self, rounds: Sequence[int]) -> None:
        """Sum up the windows of the rounds that count, once every window has run."""
        with self._failures_noted():
            self._memory = self.worker.ask(Session.memory)
            counted = [self._windows_ms[number] for number in rounds]
            self._latency = summarize(counted, left_out=len(self._windows_ms) - len(counted))

    def answers(self, data: Path) -> NDArray[np.float32] | None:
        """Its answers to the clips in a file, (clips, classes); None where it cannot give any."""
        if not self.running or self.facts.preprocessing is None:
            return None
        with self._failures_noted():
            return self.worker.ask(Session.answers, data)
        return None

    def row(self, reference: Contender | None) -> Row:
        """Its row of the report, compared with the reference."""
        latency, loaded = self._latency, self._loaded
        # The tool runs in a process of its own: load time, first inference and memory of ours are not the tool's.
        visible = loaded if loaded and loaded.facts.shows_outputs else None
        peer = Source.parse(self.entry.source).peer
        return Row(
            case=self._case(),
            status="unstable" if latency and not latency.stable else self._status,
            reason=self._reason,
            engine=self.entry.engine,
            tool=peer.name if peer else None,
            is_reference=reference is self,
            load_ms=visible.load_ms if visible else None,
            first_inference_ms=self._first.latency_ms if visible and self._first else None,
            latency=latency,
            throughput_samples_per_s=self.settings.batch / latency.mean_ms * 1e3 if latency else None,
            peak_rss_bytes=self._memory.peak_rss_bytes if visible else None,
            device_memory_bytes=self._memory.gpu_bytes,
            energy=self._energy_per_sample(),
            self_test=self._self_test,
            parity=self._parity(reference),
            speed=self._speed(reference) if reference is not self else None,
            **(loaded.facts.row_fields if loaded else {}),
        )

    def _case(self) -> Case:
        return Case(
            model=self.entry.model,
            subject=self.entry.subject,
            boundary=self._loaded.facts.boundary if self._loaded else "host to host",
            batch=self.settings.batch,
            threads=self.settings.threads,
        )

    def _parity(self, reference: Contender | None) -> Parity | None:
        """Parity with the reference where both take the same inputs, else what its compiler measured."""
        if reference is self or self._first is None:
            return None
        if reference is None or reference._first is None or not self._comparable(reference):
            return self.facts.ladder
        errors = [
            relative_error(np.asarray(self._first.outputs.get(name, ())), expected)
            for name, expected in reference._first.outputs.items()
        ]
        error = max(errors) if np.isfinite(errors).all() else None
        promised = [contender._tolerance for contender in (self, reference)]
        tolerance = sum(filter(None, promised)) if None not in promised else None
        passed = error is not None and (tolerance is None or error <= tolerance)
        return Parity(against=reference.entry.subject, error=error, tolerance=tolerance, passed=passed)

    def _comparable(self, reference: Contender) -> bool:
        """Whether both compute the same model from the same inputs and show it; fewer tokens make another model."""
        mine, theirs = self.facts, reference.facts
        same_model = mine.config.get("kept_tokens") == theirs.config.get("kept_tokens")
        seen = mine.shows_outputs and theirs.shows_outputs
        return seen and same_model and set(mine.inputs) == set(theirs.inputs)

    def _speed(self, reference: Contender | None) -> Speed | None:
        if self._latency is None or reference is None or reference._latency is None:
            return None
        speed = speed_ratio(
            reference._latency.window_medians_ms, self._latency.window_medians_ms, seed=self.settings.seed
        )
        stable = self._latency.stable and reference._latency.stable
        return Speed(
            **dataclasses.asdict(speed), against=reference.entry.subject, verdict=verdict(speed, stable=stable)
        )

    @property
    def _tolerance(self) -> float | None:
        return self._self_test.tolerance if self._self_test else self.facts.tolerance

    def _energy(self) -> float:
        return 0.0 if isinstance(self.counter, str) else self.counter.joules()

    def _energy_per_sample(self) -> Energy | None:
        if self._latency is None:
            return None
        if isinstance(self.counter, str):
            return Energy(joule_per_sample=None, source=self.counter)
        samples = self.settings.batch * sum(map(len, self._windows_ms))
        return Energy(joule_per_sample=self._joules / samples, source=self.counter.source)

    @contextmanager
    def _failures_noted(self) -> Iterator[None]:
        try:
            yield
        except (DeviceError, EngineError) as error:
            self._status, self._reason = failure_of(error)
        if not self.running:
            self.worker.close()


def _summary(result: SelfTest) -> SelfTestResult:
    error, tolerance = max(result.max_error.values()), max(result.tolerance.values())
    return SelfTestResult(
        passed=result.passed,
        error=error if math.isfinite(error) else None,
        tolerance=tolerance if math.isfinite(tolerance) else None,
    )
