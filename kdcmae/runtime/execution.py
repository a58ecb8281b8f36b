"""What a loaded engine executes, layer class by layer class, against what its manifest claims.

Layers fall into classes whatever the library calls them: matrix products, norms and softmax, the products inside
attention where a library tells them apart, and a frontend that is a model of its own. The compiler holds a build
against its claims with this, and a device the engine that it got.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from kdcmae.errors import EngineError

__all__ = [
    "MODEL_CLASSES",
    "Claim",
    "Execution",
    "claims_against",
    "counted",
    "differences_known",
    "most_in_float32",
    "read_claims",
]

_KINDS = {
    "norms": ("MVN", "LayerNormalization", "SkipLayerNormalization", "NORMALIZATION"),
    "softmax": ("Softmax", "SOFTMAX"),
}
MODEL_CLASSES = tuple(_KINDS)
"""Layer classes that every model has, though a library may compile them into layers of other classes."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What precision an engine's layers execute in, as its library reports it; empty where it reports nothing.

    Args:
        executed: layers by the library's name for their kind, and by precision.
        read_from: where that is reported, in words.
        products: matrix products with weights, by precision.
        attention: likewise the products inside attention, where they are layers of their own.
        frontend: like ``executed``, of a frontend that is a model of its own.
        kernels: how many kernels of a plan read or write which precision, as its inspector reports it; empty where
            that cannot be asked on this machine, None where there is no inspector.
    """

    executed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    read_from: str = "nothing on this machine"
    products: Mapping[str, int] = field(default_factory=dict)
    attention: Mapping[str, int] = field(default_factory=dict)
    frontend: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kernels: Mapping[str, int] | None = None

    def by_class(self) -> dict[str, dict[str, int]]:
        """Layers by class and precision.

        A class without layers is compiled into layers of others, and left out, unless nothing is reported at all.
        """
        classes = {"products": dict(self.products)}
        if self.frontend:
            classes["frontend"] = _total(self.frontend.values())
        if self.kernels is not None:
            classes["kernels"] = dict(self.kernels)
        if self.attention:
            classes["attention"] = dict(self.attention)
        for layers, kinds in _KINDS.items():
            counts = _total(self.executed.get(kind, {}) for kind in kinds)
            if counts or not self.executed:
                classes[layers] = counts
        return classes


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is claimed of one layer class of an engine, and what it executes.

    Args:
        layers: ``products``, ``attention``, ``norms``, ``softmax``, ``frontend``, or the ``kernels`` of a plan.
        claimed: the precision it executes in.
        besides: layers that may execute in another precision, by precision: those that the graph has in it on purpose.
        executed: layers by the precision that the library reports; empty where it reports none.
        checked: where it is still to be checked, in words; empty where it was checked where it was executed.
    """

    layers: str
    claimed: str
    besides: Mapping[str, int]
    executed: Mapping[str, int]
    checked: str = ""

    @property
    def holds(self) -> bool | None:
        """Nothing executes in another precision than claimed, beyond what the graph has on purpose.

        None where nothing was checked: the library reports nothing here, or the engine is for a processor that
        executes it in another way.
        """
        if not self.executed or self.checked:
            return None
        others = {found: count for found, count in self.executed.items() if found != self.claimed}
        within = all(count <= self.besides.get(found, 0) for found, count in others.items())
        return self.claimed in self.executed and within

    def __str__(self) -> str:
        """The claim beside what executes, in words."""
        executed = counted(self.executed) or "unreported"
        return f"{self.layers} are claimed to execute in {self.claimed}, the engine runs {executed}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest."""
        return {**asdict(self), "holds": self.holds}


def counted(layers: Mapping[str, int]) -> str:
    """Layers by precision, in words."""
    return ", ".join(f"{count} in {precision}" for precision, count in layers.items())


def read_claims(precision: Mapping[str, Any]) -> list[Claim]:
    """The claims of a manifest, with what the build found.

    Args:
        precision: the manifest's section.

    Raises:
        EngineError: they are not claims.
    """
    try:
        return [
            Claim(
                layers=str(claim["layers"]),
                claimed=str(claim["claimed"]),
                besides=dict(claim["besides"]),
                executed=dict(claim["executed"]),
                checked=str(claim.get("checked", "")),
            )
            for claim in precision.get("claims", ())
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"manifest field precision.claims is not a list of claims ({error!r}); rebuild it with kdcmae-compile"
        ) from None


def claims_against(precision: Mapping[str, Any], execution: Execution) -> list[Claim]:
    """The claims of a manifest, with what executes here in the place of what the build found.

    Args:
        precision: the manifest's section.
        execution: what the loaded engine executes.

    Raises:
        EngineError: they are not claims.
    """
    classes = execution.by_class()
    return [
        Claim(
            layers=claim.layers,
            claimed=claim.claimed,
            besides=_besides_here(claim, classes.get(claim.layers, {})),
            executed=classes.get(claim.layers, {}),
        )
        for claim in read_claims(precision)
    ]


def _besides_here(claim: Claim, executed: Mapping[str, int]) -> Mapping[str, int]:
    """Layers that may execute in another precision here, by precision.

    The build counted those in float32, unless it ran on a processor that executes all of them in float32.
    """
    if not claim.checked or claim.layers == "products":
        return claim.besides
    return {**claim.besides, "fp32": most_in_float32(executed)}


def most_in_float32(executed: Mapping[str, int]) -> int:
    """How many layers of a class, other than the products, may execute in float32 where bfloat16 is claimed.

    A library leaves some norms of a bfloat16 engine in float32: those behind a float32 branch of the model. They are
    fewer than half of them; more mean that the library did not follow the precision that it was given.

    Args:
        executed: the layers of the class by precision.
    """
    return max(sum(executed.values()) - 1, 0) // 2


@contextmanager
def differences_known() -> Iterator[None]:
    """Silence the warning that an engine executes in another precision than claimed, for callers that report it."""
    logger = logging.getLogger("kdcmae.runtime")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(one) for one in counts), Counter[str]()))
