"""Graph variants as data: other forms of a graph, of which the fastest is chosen by measurement.

A library compiles graphs that compute the same into different kernels, and which one is fastest depends on the
processor. So a target lists variants of its graphs beside the plain form, and a build for the machine at hand times
those that change something (:mod:`kdcmae.compile.tuning`). This module has the records and the choice, and loads no
library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = ["CONTROL", "PLAIN", "Source", "Timing", "Tuning", "Variant", "ranked", "timings_of"]

PLAIN = "plain"
"""The form that is built where nothing is known to be faster."""

CONTROL = "plain again"
"""The plain form a second time: how far it seems faster or slower is the noise of the measurement."""

_LEAST_GAIN = 0.02  # less is not worth an engine of another form
_RESTLESS = 1.1  # times as fast as itself

Origin = Literal["measured", "cache", "table"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a variant is made from.

    Args:
        graph: what the target would get for the plain form.
        floating: the float ONNX graph that it was made from; ``graph`` itself where nothing is quantised.
        layers: names of the quantised layers.
        saturates: integer products saturate on the processor unless the graph keeps them small.
    """

    graph: Path
    floating: Path
    layers: tuple[str, ...] = ()
    saturates: bool = False


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another form of a target's graph.

    Args:
        name: for manifests and tables.
        reason: why it can be faster, and where.
        precisions: of the engines that have such a graph.
        write: writes it to a path; False where the graph has nothing to change.
        suffix: of that path.
        largest_batch: the variant is for engines of this batch size at most; None for all.
    """

    name: str
    reason: str
    precisions: tuple[str, ...]
    write: Callable[[Source, Path], bool]
    suffix: str
    largest_batch: int | None = None

    def fits(self, precision: str, largest_batch: int) -> bool:
        """Whether engines of a precision, up to a batch size, can have it."""
        return precision in self.precisions and largest_batch <= (self.largest_batch or largest_batch)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast a variant is beside the plain form.

    Args:
        variant: its name, :data:`PLAIN` or :data:`CONTROL`.
        median_ms: of one batch.
        speed: how many times as fast as the plain form: the median over the turns, half of which lie between
            ``speed_low`` and ``speed_high``.
        problem: why it was not taken although it was the fastest; empty where there is no such reason.
    """

    variant: str
    median_ms: float
    speed: float
    speed_low: float
    speed_high: float
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The variant of an engine and where the choice comes from.

    Args:
        chosen: name of the variant.
        origin: ``measured`` by this build, by an earlier one on a CPU of this class (``cache``), or before kdcmae was
            released (``table``).
        cpu_class: of the processor that the choice is for.
        timings: :data:`PLAIN`, :data:`CONTROL` and the variants in the order of their table; empty where the class has
            not been measured.
        measured_on: name of the processor that was measured; empty where none was.
    """

    chosen: str
    origin: Origin
    cpu_class: str
    timings: tuple[Timing, ...] = ()
    measured_on: str = ""

    @property
    def restless(self) -> bool:
        """Whether the plain form beside itself differed by so much that a quiet moment could choose otherwise."""
        return bool(self.timings) and _noise(self.timings) > _RESTLESS

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {**asdict(self), "timings": [asdict(timing) for timing in self.timings]}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Tuning:
        """What :meth:`to_dict` gave.

        Raises:
            KeyError, TypeError: it is not that.
        """
        return cls(**{**facts, "timings": tuple(Timing(**timing) for timing in facts["timings"])})


def timings_of(turns: Mapping[str, Sequence[float]]) -> tuple[Timing, ...]:
    """Timings from what each form took in each turn.

    Args:
        turns: median latencies in ms per turn by name, :data:`PLAIN` among them; the forms were run in turns, so the
            entries of one place belong together.
    """
    plain = np.asarray(turns[PLAIN])
    found = []
    for name, latencies in turns.items():
        low, speed, high = (float(value) for value in np.percentile(plain / np.asarray(latencies), (25, 50, 75)))
        median_ms = float(np.median(latencies))
        found.append(Timing(variant=name, median_ms=median_ms, speed=speed, speed_low=low, speed_high=high))
    return tuple(found)


def ranked(timings: Sequence[Timing]) -> list[str]:
    """Names of the variants that are faster than the plain form, the best first.

    A variant counts as faster only beyond what the control shows as noise, and beyond 2 %. Of those that cannot be told
    apart from the fastest, the first in the order of the table comes first, which makes the choice repeatable.

    Args:
        timings: with those of the plain form and of the control; none where nothing was measured.
    """
    if not timings:
        return []
    noise = max(_noise(timings), 1 + _LEAST_GAIN)
    left = [timing for timing in timings if timing.variant not in (PLAIN, CONTROL) and timing.speed_low > noise]
    order = []
    while left:
        fastest = max(left, key=lambda timing: timing.speed)
        first = next(timing for timing in left if timing.speed_high >= fastest.speed_low)
        left.remove(first)
        order.append(first.variant)
    return order


def _noise(timings: Sequence[Timing]) -> float:
    """How many times as fast as itself the plain form seems."""
    control = next(timing for timing in timings if timing.variant == CONTROL)
    return max(control.speed_high, 1 / control.speed_low)
