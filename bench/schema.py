"""The report of a benchmark as data: one row per subject, one JSON object in all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from kdcmae.bench.timing import Latency, Schedule, SpeedRatio, Verdict

__all__ = [
    "BOUNDARY",
    "SCHEMA_VERSION",
    "Parity",
    "Report",
    "Row",
    "SelfTestResult",
    "Settings",
    "Speed",
    "Status",
]

SCHEMA_VERSION = 1
BOUNDARY = "host to host: numpy arrays in, numpy arrays out; decoding and preprocessing are not included"

Status = Literal["measured", "unstable", "failed", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a benchmark runs.

    Args:
        batch: samples per call.
        threads: CPU threads per subject.
        seconds: timed seconds per subject, spread over the rounds; slow subjects take longer.
        warm_up_s: seconds each subject runs before its first window.
        timeout_s: how long a subject may take for one step before it counts as hung.
        seed: of the inputs and of the bootstrap.
    """

    batch: int
    threads: int
    seconds: float
    warm_up_s: float
    timeout_s: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SelfTestResult:
    """Largest error over the outputs of a subject's own test, relative to the largest reference value."""

    passed: bool
    error: float | None
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A subject's outputs against the reference subject's, on the same inputs.

    Args:
        error: largest absolute difference over the largest absolute reference value, over all outputs; None where
            names or shapes differ or a value is not finite.
        tolerance: the self-test tolerances of both added up; for a PyTorch model, the rounding of float32.
        passed: the error is known and within tolerance.
    """

    error: float | None
    tolerance: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Speed(SpeedRatio):
    """Speed against the reference subject, and what may be said about it."""

    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """One subject. What could not be measured is None.

    Args:
        subject: as given on the command line.
        status: ``unstable`` is measured, but varies too much between windows to compare.
        reason: why it failed or was not measured.
        kind: what runs it.
        computes_in: precision of the matrix products.
        load_ms: from a started process to a loaded subject, the import of its library included.
        first_inference_ms: the first call after loading.
        latency: of single calls after the warm-up.
        throughput_samples_per_s: of one caller that waits for each result.
        peak_rss_bytes: largest resident memory of the subject's own process.
        self_test: of the subject itself.
        parity: with the reference subject; None for the reference itself.
        speed: against the reference subject; None for the reference itself.
    """

    subject: str
    status: Status
    reason: str = ""
    kind: str | None = None
    computes_in: str | None = None
    load_ms: float | None = None
    first_inference_ms: float | None = None
    latency: Latency | None = None
    throughput_samples_per_s: float | None = None
    peak_rss_bytes: int | None = None
    self_test: SelfTestResult | None = None
    parity: Parity | None = None
    speed: Speed | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole benchmark.

    Args:
        kdcmae_version: that measured.
        created: when it started, ISO 8601 in UTC.
        environment: the machine, its load, library versions, commit.
        settings: how it ran.
        schedule: the turns the subjects took; None where nothing was timed.
        reference: index of the row that parity and speed refer to; None where nothing ran.
        rows: one per subject, in the order given.
    """

    kdcmae_version: str
    created: str
    environment: dict[str, Any]
    settings: Settings
    schedule: Schedule | None
    reference: int | None
    rows: tuple[Row, ...]

    @property
    def exit_code(self) -> int:
        """1 where a subject failed or disagrees with the reference, 3 where this machine can run none, else 0."""
        if any(row.status == "failed" or (row.parity and not row.parity.passed) for row in self.rows):
            return 1
        return 3 if all(row.status == "not measured" for row in self.rows) else 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"schema_version": SCHEMA_VERSION, "boundary": BOUNDARY, **dataclasses.asdict(self)}
