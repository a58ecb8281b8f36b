"""The device card: what one machine does with one engine, as data.

``kdcmae check --json`` writes it on the device, ``kdcmae-bench fleet`` puts those of several devices side by side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kdcmae.timing import CallStatistics

__all__ = [
    "BOUNDARIES",
    "SCHEMA_VERSION",
    "SELF_TEST",
    "CardDevice",
    "CardEngine",
    "DeviceCard",
    "Outcome",
    "SteadyLatency",
    "Timings",
    "Verdict",
]

SCHEMA_VERSION = 1
SELF_TEST = "self-test"  # the claim that the engine computes what its model computes

# What each measurement of a card covers.
BOUNDARIES = {
    "load_ms": "load_engine() from call to return, digests and the import of the library included",
    "first_inference_ms": "the first call after loading",
    "latency": "numpy arrays in, numpy arrays out, calls back to back; without decoding and preprocessing",
    "peak_rss_bytes": "largest resident memory of the process, Python included",
}

Outcome = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True, kw_only=True)
class CardDevice:
    """The machine.

    Args:
        name: given by the user; empty for the name of its processor.
        host: system, architecture, processor and Python, see :func:`kdcmae.host.describe_host`.
        cpu_class: one of :data:`kdcmae.runtime.cpu.CLASSES`; empty below all of them.
        cpu_features: instructions that engines may use here.
        cpu_cap: oneDNN's limit on these instructions, in its own words; empty without a limit.
        libraries: versions of the libraries that ran the engine.
        runs_on: the device, in the engine library's words.
        threads: requested CPU threads; None for the manifest's or the library's choice.
    """

    name: str
    host: dict[str, str | int]
    cpu_class: str
    cpu_features: tuple[str, ...]
    cpu_cap: str
    libraries: dict[str, str]
    runs_on: str
    threads: int | None


@dataclass(frozen=True, kw_only=True)
class CardEngine:
    """The engine, from its manifest.

    Args:
        folder: its path on the device.
        digest: SHA-256 of its manifest, which holds the digests of all other files: cards with equal digests
            describe the same engine.
        target: one of :data:`kdcmae.runtime.targets.TARGETS`.
        model: its name.
        parameters: their number.
        modality: ``audiovisual``, ``audio`` or ``video``.
        random_weights: the model is untrained, for timing only.
        batch: samples per timed call, the smallest batch of the engine.
        asked: the requested precision.
        built_for: the processor that it is for; empty if the manifest does not say.
        built_on: the processor that built it.
        built_ms: median latency where it was built; None if not measured.
        created: when it was built.
        size_bytes: of its files.
    """

    folder: str
    digest: str
    target: str
    model: str
    parameters: int
    modality: str
    random_weights: bool
    batch: int
    asked: str
    built_for: str
    built_on: str
    built_ms: float | None
    created: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class SteadyLatency(CallStatistics):
    """Single calls after a warm-up of so many seconds."""

    warm_up_s: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How fast the engine is here; :data:`BOUNDARIES` says what each figure covers."""

    load_ms: float
    first_inference_ms: float
    latency: SteadyLatency
    peak_rss_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim of the manifest, and whether it holds on this device."""

    claim: str
    outcome: Outcome
    found: str


@dataclass(frozen=True, kw_only=True)
class DeviceCard:
    """Result of checking an engine on a device.

    Args:
        kdcmae_version: that checked it.
        created: when, ISO 8601 in UTC.
        device: the machine.
        engine: what was checked.
        executed: layers of the engine itself by class and precision, as its library reports them; empty if it
            reports none.
        read_from: source of ``executed``, in words.
        error: largest difference from the stored reference outputs, relative to their largest value; None if an
            output is not finite.
        tolerance: the largest that the self-test allows for the output of that error.
        verdicts: one per claim.
        timings: how fast.
        schema_version: of this format.
    """

    kdcmae_version: str
    created: str
    device: CardDevice
    engine: CardEngine
    executed: dict[str, dict[str, int]]
    read_from: str
    error: float | None
    tolerance: float
    verdicts: tuple[Verdict, ...]
    timings: Timings
    schema_version: int = SCHEMA_VERSION

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """Claims that do not hold on the device."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == "does not hold")

    @property
    def computes_in(self) -> str:
        """Precisions of the matrix products, the most frequent first; empty if the library reports none."""
        products = self.executed.get("products", {})
        return " + ".join(sorted(products, key=lambda precision: -products[precision]))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"boundaries": dict(BOUNDARIES), **asdict(self)}
