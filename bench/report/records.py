"""The report of a benchmark as data: one row per case, one JSON document in all.

A case is one subject (an engine, a checkpoint, a peer) of one model under one condition. Rows that could not be
measured are rows too, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdcmae.bench.report.envelope import Envelope, Kind, from_plain, read_document
from kdcmae.bench.report.files import slug
from kdcmae.bench.run.timing import Latency, SpeedRatio, Verdict
from kdcmae.errors import DataError, DeviceError

__all__ = [
    "BOUNDARIES",
    "LEFT_OUT",
    "NOT_HERE",
    "Accuracy",
    "Agreement",
    "Boundary",
    "Case",
    "CaseKind",
    "Ceilings",
    "DeviceCeilings",
    "Energy",
    "Floor",
    "Parity",
    "Report",
    "Row",
    "SelfCheck",
    "SelfTestResult",
    "Settings",
    "Speed",
    "Status",
    "failure_of",
    "read_report",
    "report_of",
]

Boundary = Literal["host to host", "library call", "tool", "device", "clip to label", "process to label"]
BOUNDARIES: Mapping[str, str] = {
    "host to host": "numpy arrays in, numpy arrays out; decoding and preprocessing are not included",
    "library call": "the library's own call by its own clock, in a new process per window, on inputs made up",
    "tool": "what the library's own tool reports for its inference call, on inputs it makes up",
    "device": "between two CUDA events around the work on the GPU; inputs and outputs stay there",
    "clip to label": "a video file on disk to its labels: decode, fbank, frame, inference",
    "process to label": "starting a new process to its first label, files in the system's cache",
}

CaseKind = Literal["latency", "batch", "threads", "cold start", "clip to label"]
Status = Literal["measured", "unstable", "failed", "not measured"]

NOT_HERE, LEFT_OUT = "not measured on this hardware: ", "left out of the suite: "
"""Beginnings of the reasons why a row is not measured."""


def failure_of(error: Exception) -> tuple[Status, str]:
    """Status and reason of a row whose measurement ended in an error."""
    return ("not measured", f"{NOT_HERE}{error}") if isinstance(error, DeviceError) else ("failed", str(error))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a benchmark runs.

    Args:
        batch: samples per call.
        threads: CPU threads per subject, which is pinned to as many CPUs.
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
class Case:
    """Subject and conditions of a row.

    Args:
        model: that the subject runs; subjects of one model compute the same.
        subject: as given on the command line, or the suite's name for it.
        kind: what is varied or measured.
        boundary: where the clock starts and stops, a key of :data:`BOUNDARIES`.
        batch: samples per call.
        threads: CPU threads per instance.
        instances: copies of the subject that run at the same time, each pinned to CPUs of its own.
    """

    model: str
    subject: str
    kind: CaseKind = "latency"
    boundary: Boundary = "host to host"
    batch: int = 1
    threads: int = 1
    instances: int = 1

    def __str__(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 or self.kind == "batch" else ""
        threads = f", {self.instances} x {self.threads} threads" if self.kind == "threads" else ""
        return f"{self.model}{': ' if self.model else ''}{self.subject}, {self.kind}{batch}{threads}"


@dataclass(frozen=True, kw_only=True)
class SelfTestResult:
    """Largest error over the outputs of a subject's own test, relative to the largest reference value.

    Args:
        passed: verdict of the subject.
        error: None where it is not finite.
        tolerance: None if the subject promises no size of error.
    """

    passed: bool
    error: float | None
    tolerance: float | None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A subject's outputs against others', on the same inputs.

    Args:
        against: the subject compared with, or ``"its own ladder"``: errors that the compiler measured.
        error: largest absolute difference over the largest absolute reference value, over all outputs; None where
            names or shapes differ or a value is not finite.
        tolerance: the self-test tolerances of both added up; None for a peer that promises nothing.
        passed: the error is known and, where there is a tolerance, within it.
    """

    against: str
    error: float | None
    tolerance: float | None
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Speed(SpeedRatio):
    """Speed against the reference subject of the same run, and the verdict."""

    against: str
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of labelled clips whose best class is their label, with the bounds of its 95 % interval."""

    top1: float
    low: float
    high: float
    clips: int
    data: str


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy per sample while the subject ran, the idle machine included.

    Args:
        joule_per_sample: None where the machine does not expose it.
        source: the counter, or why there is none.
    """

    joule_per_sample: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Shortest latency that the machine's measured ceilings allow.

    Args:
        flop, traffic_bytes: per call, counted by hand in :mod:`kdcmae.bench.run.work`.
        precision: whose ceiling was used: the fastest the subject computes in.
        floor_ms: the longer of computing the FLOP and moving the bytes.
        fraction: the floor over the measured median; 1 is the ceiling.
    """

    flop: float
    traffic_bytes: float
    precision: str
    floor_ms: float
    fraction: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case. A quantity that could not be measured is None.

    Args:
        case: what it is about.
        status: ``unstable`` is measured, but varies too much between windows to compare.
        reason: why it failed or was not measured.
        kind: library or program that runs it, such as ``openvino``.
        engine: the subject whose engine folder this row runs: its own for an engine, that of the engine for a tool
            that runs the same folder; None where no engine is involved, as in PyTorch.
        tool: the peer that runs or times it, by its name on the command line; None for kdcmae's runtime and for PyTorch
            eager.
        target: of the engine folder.
        precision: asked for when it was built or opened.
        keep: share of the tokens that the model keeps; None for all.
        computes_in: precisions that the matrix products execute in.
        modality: ``audiovisual``, ``audio`` or ``video``.
        inputs: ``tensor`` or ``raw``.
        is_reference: the others of its group are compared with it.
        load_ms: from a started process to a loaded subject, the import of its library included.
        first_inference_ms: the first call after loading.
        latency: of single calls after the warm-up.
        throughput_samples_per_s: of callers that wait for each result; one per instance.
        stages_ms: medians of the stages, in their order.
        peak_rss_bytes: largest resident memory of the subject's own process.
        device_memory_bytes: memory of the GPU in use once the subject had run, all processes together.
        artifact_bytes: size of the engine folder.
        compile_s: what building it took.
        energy: while it ran.
        self_test: of the subject itself.
        parity: with the reference subject, or of its own ladder if it takes other inputs.
        accuracy: on labelled clips, of a trained model.
        speed: against the reference subject; None for the reference itself.
        floor: shortest latency that the machine allows.
        yardstick_ms: time of known work meanwhile, see :mod:`kdcmae.bench.machine.yardstick`.
    """

    case: Case
    status: Status
    reason: str = ""
    kind: str | None = None
    engine: str | None = None
    tool: str | None = None
    target: str | None = None
    precision: str | None = None
    keep: float | None = None
    computes_in: str | None = None
    modality: str | None = None
    inputs: str | None = None
    is_reference: bool = False
    load_ms: float | None = None
    first_inference_ms: float | None = None
    latency: Latency | None = None
    throughput_samples_per_s: float | None = None
    stages_ms: dict[str, float] | None = None
    peak_rss_bytes: int | None = None
    device_memory_bytes: int | None = None
    artifact_bytes: int | None = None
    compile_s: float | None = None
    energy: Energy | None = None
    self_test: SelfTestResult | None = None
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    floor: Floor | None = None
    yardstick_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Result of the check of clock and machine before the first timing.

    Args:
        problems: reasons not to trust figures taken now; empty if there are none.
        figures: what was measured, by name.
        overridden: the run went on in spite of problems, as asked.
    """

    problems: tuple[str, ...]
    figures: dict[str, float]
    overridden: bool


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Highest rates of the machine, with the threads of the run.

    Args:
        flop_per_s: of a large matrix product, by precision.
        copy_bytes_per_s: read and written, of a copy larger than the caches.
        how: program or library that measured each.
    """

    flop_per_s: dict[str, float]
    copy_bytes_per_s: float
    how: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class DeviceCeilings:
    """Highest rates of a device, measured in this run.

    Args:
        copy_bytes_per_s: a copy too large for the cache; bytes read plus bytes written.
        matmul_flop_per_s: a large square matrix product.
        matmul_dtype: of that product.
        timer_floor_us: what timing nothing gives; it is in every figure.
    """

    copy_bytes_per_s: float
    matmul_flop_per_s: float
    matmul_dtype: str
    timer_floor_us: float

    def floor_us(self, moved_bytes: float, flop: float) -> float:
        """The time below which so much cannot be moved and computed."""
        return 1e6 * max(moved_bytes / self.copy_bytes_per_s, flop / self.matmul_flop_per_s)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of every two subjects of a model on the same clips.

    Args:
        model: whose subjects.
        data: which clips.
        clips: how many.
        subjects: names of rows and columns.
        cosine: smallest cosine of two subjects' logits over the clips.
        flips: clips whose best class differs.
    """

    model: str
    data: str
    clips: int
    subjects: tuple[str, ...]
    cosine: tuple[tuple[float, ...], ...]
    flips: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Report(Envelope):
    """A whole benchmark; its environment has the state of the machine before and after.

    Args:
        settings: how it ran.
        rows: one per case.
        self_check: None where none was made.
        ceilings: None where they were not measured.
        agreement: one per model.
    """

    kind: Kind = "benchmark"
    settings: Settings
    rows: tuple[Row, ...]
    self_check: SelfCheck | None = None
    ceilings: Ceilings | None = None
    agreement: tuple[Agreement, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where a subject failed or disagrees with the reference, 3 where this machine can run none, else 0."""
        if any(row.status == "failed" or (row.parity and not row.parity.passed) for row in self.rows):
            return 1
        return 3 if all(row.status == "not measured" for row in self.rows) else 0

    @property
    def machine_slug(self) -> str:
        """Name of the folder for results of this machine."""
        host = self.environment["host"]
        return slug(f"{host['cpu'] or host['machine']} {self.environment['usable_cpus']} cpus")

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"boundaries": dict(BOUNDARIES), **dataclasses.asdict(self)}


def read_report(path: Path) -> Report:
    """Read a report that a run wrote.

    Raises:
        DataError: no such file, not a report, or of another schema version.
    """
    document = read_document(path, "benchmark")
    try:
        return report_of(document)
    except TypeError as error:
        raise DataError(f"{path} is not a report of kdcmae-bench: {error}") from error


def report_of(document: Mapping[str, Any]) -> Report:
    """A document of kind ``benchmark`` as a report.

    Raises:
        TypeError: a field is missing, unknown or of another type.
    """
    report: Report = from_plain(Report, {name: value for name, value in document.items() if name != "boundaries"})
    return report
