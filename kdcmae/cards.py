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

# What a figure of a card covers.
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
        name: what people call it; empty where nobody said, and then its processor stands for it.
        host: system, architecture, processor and Python, see :func:`kdcmae.host.describe_host`.
        cpu_class: one of :data:`kdcmae.runtime.cpu.CLASSES`; empty below all of them.
        cpu_features: instructions that engines may use here.
        cpu_cap: oneDNN's cap on them, in its own words; empty where there is none.
        libraries: versions of what ran the engine.
        runs_on: the device, in the engine library's words.
        threads: that were asked for; None for the manifest's or the library's choice.
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
        digest: SHA-256 of its manifest, which holds the digests of all other files: cards with the same one are of the
            same engine.
        target: one of :data:`kdcmae.runtime.targets.TARGETS`.
        model: its name.
        parameters: how many.
        modality: ``audiovisual``, ``audio`` or ``video``.
        random_weights: it was built to be timed only.
        batch: samples per call that were timed, the smallest that it takes.
        asked: the precision that it was built in.
        built_for: the processor that it is for; empty where the manifest does not say.
        built_on: the processor that built it.
        built_ms: median latency where it was built; None where that was not measured.
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
    """What a device does with an engine.

    Args:
        kdcmae_version: that checked it.
        created: when, ISO 8601 in UTC.
        device: the machine.
        engine: what was checked.
        executed: layers of the engine itself by class and precision, as its library reports them; empty where it
            reports none.
        read_from: where that is reported, in words.
        error: largest difference from the stored reference outputs, relative to their largest value; None where an
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
        """Precisions of the matrix products, the most frequent first; empty where the library reports none."""
        products = self.executed.get("products", {})
        return " + ".join(sorted(products, key=lambda precision: -products[precision]))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"boundaries": dict(BOUNDARIES), **asdict(self)}
