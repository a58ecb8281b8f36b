"""One subject on its way through a benchmark, from loading to its row in the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from kdcmae.bench.schema import Parity, Row, SelfTestResult, Settings, Speed, Status
from kdcmae.bench.subjects import Facts
from kdcmae.bench.timing import Latency, speed_ratio, summarize, verdict
from kdcmae.bench.worker import FirstInference, Loaded, Worker
from kdcmae.compile.parity import relative_error
from kdcmae.errors import DeviceError, EngineError
from kdcmae.runtime import SelfTest

__all__ = ["Contender"]

# Outputs of PyTorch models with the same weights may differ by this: alignment can change the order of a sum.
FLOAT32_ROUNDING = 1e-5


class Contender:
    """A subject, its worker and what is known so far. Once it has failed, its worker is gone and it only has a row.

    Attributes:
        call_s: what a call took during the warm-up.

    Args:
        source: as given on the command line.
        worker: of this subject.
        settings: of the benchmark.
    """

    def __init__(self, source: str, worker: Worker, settings: Settings) -> None:
        self.source = source
        self.call_s = 0.0
        self._worker = worker
        self._settings = settings
        self._status: Status = "measured"
        self._reason = ""
        self._loaded: Loaded | None = None
        self._first: FirstInference | None = None
        self._self_test: SelfTestResult | None = None
        self._windows_ms: list[list[float]] = []
        self._latency: Latency | None = None
        self._peak_rss_bytes: int | None = None

    @property
    def running(self) -> bool:
        """Nothing went wrong so far."""
        return self._status == "measured"

    @property
    def facts(self) -> Facts:
        """Known once loaded."""
        assert self._loaded is not None
        return self._loaded.facts

    def load(self) -> None:
        """Load the subject."""
        with self._failures_noted():
            self._loaded = self._worker.load()

    def check(self) -> None:
        """First inference, whose outputs the parity is about, and self-test."""
        with self._failures_noted():
            self._first = self._worker.first_inference(self._settings.batch, self._settings.seed)
            result = self._worker.self_test()
            if result is None:
                return
            self._self_test = _summary(result)
            if not result.passed:
                raise EngineError(
                    f"its self-test failed: error {max(result.max_error.values()):.1e}, "
                    f"allowed {self._self_test.tolerance:.1e}; not timed"
                )

    def warm_up(self) -> None:
        """Run without counting, and learn what a call takes."""
        with self._failures_noted():
            self.call_s = float(np.median(self._worker.window(self._settings.warm_up_s))) / 1e3

    def take_turn(self, window_s: float) -> None:
        """Run one window."""
        with self._failures_noted():
            self._windows_ms.append(self._worker.window(window_s))

    def finish(self) -> None:
        """Sum up, once every window has run."""
        with self._failures_noted():
            self._peak_rss_bytes = self._worker.peak_rss_bytes()
            self._latency = summarize(self._windows_ms)

    def row(self, reference: Contender | None) -> Row:
        """What is known, the comparison with the reference included."""
        latency = self._latency
        loaded, first = self._loaded, self._first
        compared = reference if reference is not self else None
        return Row(
            subject=self.source,
            status="unstable" if latency and not latency.stable else self._status,
            reason=self._reason,
            kind=loaded.facts.kind if loaded else None,
            computes_in=loaded.facts.computes_in if loaded else None,
            load_ms=loaded.load_ms if loaded else None,
            first_inference_ms=first.latency_ms if first else None,
            latency=latency,
            throughput_samples_per_s=self._settings.batch / latency.mean_ms * 1e3 if latency else None,
            peak_rss_bytes=self._peak_rss_bytes,
            self_test=self._self_test,
            parity=self._parity(compared) if compared else None,
            speed=self._speed(compared) if compared else None,
        )

    def _parity(self, reference: Contender) -> Parity | None:
        if self._first is None or reference._first is None:
            return None
        errors = [
            relative_error(np.asarray(self._first.outputs.get(name, ())), expected)
            for name, expected in reference._first.outputs.items()
        ]
        error = max(errors) if np.isfinite(errors).all() else None
        tolerance = self._tolerance + reference._tolerance
        return Parity(error=error, tolerance=tolerance, passed=error is not None and error <= tolerance)

    def _speed(self, reference: Contender) -> Speed | None:
        if self._latency is None or reference._latency is None:
            return None
        speed = speed_ratio(
            reference._latency.window_medians_ms, self._latency.window_medians_ms, seed=self._settings.seed
        )
        stable = self._latency.stable and reference._latency.stable
        return Speed(**dataclasses.asdict(speed), verdict=verdict(speed, stable=stable))

    @property
    def _tolerance(self) -> float:
        return self._self_test.tolerance if self._self_test else FLOAT32_ROUNDING

    @contextmanager
    def _failures_noted(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            self._status, self._reason = "not measured", f"not measured on this hardware: {error}"
        except EngineError as error:
            self._status, self._reason = "failed", str(error)
        if not self.running:
            self._worker.close()


def _summary(result: SelfTest) -> SelfTestResult:
    error = max(result.max_error.values())
    return SelfTestResult(
        passed=result.passed,
        error=error if math.isfinite(error) else None,
        tolerance=max(result.tolerance.values()),
    )
