"""What to build and what it must pass, as data; importing this loads no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdcmae.compile.targets import load_target
from kdcmae.errors import ConfigError
from kdcmae.runtime.capabilities import executed_as
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.precisions import GATES, PRECISIONS, QUANTIZED, Gate, gate_for
from kdcmae.runtime.targets import TARGETS

__all__ = [
    "MOST_CLIPS",
    "CompileSettings",
    "Expectation",
    "QuantizationSettings",
    "SearchSettings",
]


MOST_CLIPS = 256
"""Clips that an engine is proved on at most: prepared ones of the base model take 300 MB."""


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """What int8 and fp8 are made from, and what they may cost.

    Args:
        calibration: clips that ranges are learnt from: ``avsynth:CLIPS``, a manifest, shards or a folder of clips.
        evaluation: held-out clips with labels, likewise; half of them choose the layers, half report what they cost.
        max_drop: what the upper end of the 95 % interval of the accuracy lost on them must not exceed, in percentage
            points of top-1, or of mAP for a multi-label model; None to measure nothing here.
        searched: a search measures the engine on ``evaluation`` afterwards.
        reuse: take a graph that was quantised before, or the variant that was the fastest, from the cache, and keep
            this one there.
    """

    calibration: str | Path = "avsynth:32"
    evaluation: str | Path = "avsynth:1000"
    max_drop: float | None = None
    searched: bool = False
    reuse: bool = True

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ConfigError(f"--max-drop {self.max_drop} must lie between 0 and 100 percentage points")

    @property
    def measured(self) -> bool:
        """Clips of ``evaluation`` report accuracy, here or in a search, so that none of them may calibrate."""
        return self.searched or self.max_drop is not None


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Where the outputs of the user's own model come from.

    Args:
        path: a file of expected outputs, or a Python script.
        function: of the script, which is executed; empty for a file.
    """

    path: Path
    function: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.path.name}:{self.function}" if self.function else self.path.name

    @classmethod
    def of_function(cls, text: str) -> Expectation:
        """``script.py:function``.

        Raises:
            ConfigError: anything else.
        """
        path, _, function = text.rpartition(":")
        if not path.endswith(".py") or not function.isidentifier():
            raise ConfigError(f"--expect-from {text!r} must be a script and a function in it, such as mine.py:logits")
        return cls(path=Path(path), function=function)


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """What to build.

    Args:
        target: a name of :data:`kdcmae.runtime.targets.TARGETS`.
        precision: of the matrix products.
        batch: sizes the engine must serve; min = max bakes the size in.
        cpu: the processor that the engine is for; this machine's, unless the target builds for others too.
        chosen: why it is this precision, where kdcmae chose it; empty where the user did.
        execute_as: the precision that the products may execute in instead, on a device that lacks the one asked for.
        limits: tighter limits than the precision's own, by the names of :class:`~kdcmae.runtime.precisions.Gate`.
        clips: files to prove the engine on, beside the clips made here.
        proof_clips: number of clips that made ones fill up to; None for what :mod:`kdcmae.compile.cases` affords.
        store_clips: the self-test may keep some of ``clips`` in the engine's folder, where no made clip tells enough.
        device: ``cpu`` or ``cuda``, for a target that builds for several; the target's default where empty.
        split: in parts: an encoder per modality, and what joins them.
        tune: ``on`` times the variants of the graph where the engine is for this machine; otherwise, and with
            ``table``, the variant is the one of the committed measurements; ``off`` builds the plain graph.
        quantization: of int8 and fp8.
    """

    target: str
    precision: str
    batch: BatchRange
    cpu: Cpu = field(default_factory=this_cpu)
    chosen: str = ""
    execute_as: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    clips: tuple[Path, ...] = ()
    proof_clips: int | None = None
    store_clips: bool = True
    device: str = ""
    split: bool = False
    tune: Literal["on", "table", "off"] = "off"
    quantization: QuantizationSettings = field(default_factory=QuantizationSettings)

    def __post_init__(self) -> None:
        if self.proof_clips is not None and not 1 <= self.proof_clips <= MOST_CLIPS:
            raise ConfigError(f"--proof-clips {self.proof_clips} must lie between 1 and {MOST_CLIPS}")

    @property
    def floating(self) -> str:
        """The precision of the exported graph, before anything in it is quantised."""
        return "fp32" if self.precision in QUANTIZED else self.precision

    def graph_gate(self) -> Gate:
        """The gate of the exported graph."""
        return self.gate(set()) if self.floating == self.precision else gate_for({self.floating})

    def gate(self, executed: set[str]) -> Gate:
        """The gate of a stage that computes in ``executed`` and, in the graph, in the precision asked for.

        Raises:
            ConfigError: a limit that is looser than what the precision must pass anyway.
        """
        return gate_for({self.precision, *(executed & GATES.keys())}).tightened(**self.limits)

    def claimed(self) -> str:
        """The precision that the matrix products are claimed to execute in, on the processor that the engine is for."""
        return self.execute_as or self.precision

    def executes_here(self, precision: str) -> str:
        """What this machine's processor executes for a precision that is claimed of the other."""
        return executed_as(self.target, precision, cpu=this_cpu())

    @property
    def elsewhere(self) -> str:
        """The processor that the engine is for, where it is another than this machine's; empty where it is not."""
        return "" if self.cpu == this_cpu() else self.cpu.name or self.cpu.class_name

    @property
    def saturates(self) -> bool:
        """Integer products of this engine saturate on the processor it is for, unless the graph keeps them small."""
        return self._may_saturate and self.cpu.saturates_int8

    @property
    def saturates_here(self) -> bool:
        """Integer products of this engine saturate on this machine's processor though not on the one it is for.

        Then what it computes here says nothing of what it computes there.
        """
        return self._may_saturate and this_cpu().saturates_int8 and not self.saturates

    @property
    def _may_saturate(self) -> bool:
        return PRECISIONS[self.precision].saturates and TARGETS[self.target].runs_on_cpu_only


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What is wanted, and where to look.

    Args:
        build: of every candidate, whatever its precision; the held-out clips are those of the quantisation.
        budget_ms: nine in ten inferences of one sample must not take longer.
        max_drop: accuracy that may be lost, in percentage points.
        ratios: shares of the tokens, falling, from 1.
        threads: numbers of CPU threads; the fewest that meet the budget win.
        window_s, rounds: interleaved timing of one engine with each number of threads.
    """

    build: CompileSettings
    budget_ms: float
    max_drop: float
    ratios: tuple[float, ...] = (1.0, 0.75, 0.5, 0.35, 0.25)
    threads: tuple[int, ...] = (1,)
    window_s: float = 0.5
    rounds: int = 4

    @property
    def precisions(self) -> tuple[str, ...]:
        """What is tried here, the most accurate first: the precisions that this processor multiplies."""
        searched = load_target(self.build.target).searched
        return tuple(name for name in searched if name in QUANTIZED or self.build.cpu.multiplies(name))

    def __post_init__(self) -> None:
        if not load_target(self.build.target).searched:
            searched = ", ".join(name for name in TARGETS if load_target(name).searched)
            raise ConfigError(f"--budget-ms searches {searched} on this machine, not {self.build.target}")
        if not self.budget_ms > 0:
            raise ConfigError(f"--budget-ms {self.budget_ms:g} must be positive")
        if not 0 <= self.max_drop <= 100:
            raise ConfigError(f"--max-drop {self.max_drop:g} must lie between 0 and 100 percentage points")
