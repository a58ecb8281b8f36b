"""The precisions that a loaded engine executes, per layer class, compared with the claims in its manifest.

The layer classes are the same for all libraries: matrix products, norms, softmax, the products inside attention if a
library reports them separately, and the frontend if it is a model of its own. The compiler checks the claims of the
engine that it built, and ``kdcmae check`` and ``load_engine`` check them again on a device.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    "summed",
]

_KINDS = {
    "norms": ("MVN", "LayerNormalization", "SkipLayerNormalization", "NORMALIZATION"),
    "softmax": ("Softmax", "SOFTMAX"),
}
MODEL_CLASSES = tuple(_KINDS)
"""Layer classes that every model has; a library may fuse them into layers of other classes."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """The precisions that an engine's layers execute in, as its library reports them; empty if it reports nothing.

    Args:
        executed: number of layers, by the library's name of their type and by precision.
        read_from: source of these figures, in words.
        products: number of matrix products with weights, by precision.
        attention: number of products inside attention, by precision, if they are layers of their own.
        frontend: like ``executed``, for a frontend that is a model of its own.
        kernels: number of kernels in a TensorRT plan that read or write each precision, from its inspector; empty if
            the inspector cannot run on this machine, None if there is no inspector.
    """

    executed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    read_from: str = "nothing on this machine"
    products: Mapping[str, int] = field(default_factory=dict)
    attention: Mapping[str, int] = field(default_factory=dict)
    frontend: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    kernels: Mapping[str, int] | None = None

    def by_class(self) -> dict[str, dict[str, int]]:
        """Number of layers by class and precision.

        A class without layers was fused into layers of other classes and is left out, unless nothing is reported at
        all.
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


def summed(executions: Sequence[Execution]) -> Execution:
    """The execution of an engine in parts.

    Args:
        executions: of its parts, at least one.
    """
    kernels = [execution.kernels for execution in executions if execution.kernels is not None]
    return Execution(
        executed=_added(execution.executed for execution in executions),
        read_from=executions[0].read_from,
        products=_total(execution.products for execution in executions),
        attention=_total(execution.attention for execution in executions),
        frontend=_added(execution.frontend for execution in executions),
        kernels=_total(kernels) if kernels else None,
    )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The precision claimed for one layer class of an engine, and the precisions that it executes.

    Args:
        layers: ``products``, ``attention``, ``norms``, ``softmax``, ``frontend``, or the ``kernels`` of a plan.
        claimed: precision that the layers are claimed to execute in.
        besides: number of layers that may execute in another precision because the graph has them in it, by precision.
        executed: number of layers by the precision that the library reports; empty if it reports none.
        checked: the machine on which the claim remains to be checked, in words; empty if the claim was checked.
    """

    layers: str
    claimed: str
    besides: Mapping[str, int]
    executed: Mapping[str, int]
    checked: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether all layers execute in the claimed precision, except those that the graph has in another one.

        None if the claim was not checked: the library reports nothing on this machine, or the engine is for a
        processor that executes other precisions.
        """
        if not self.executed or self.checked:
            return None
        differing = {name: count for name, count in self.executed.items() if name != self.claimed}
        within = all(count <= self.besides.get(name, 0) for name, count in differing.items())
        return self.claimed in self.executed and within

    def __str__(self) -> str:
        """The claim and what executes, in words."""
        executed = counted(self.executed) or "unreported"
        return f"{self.layers} are claimed to execute in {self.claimed}, the engine runs {executed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {**asdict(self), "holds": self.holds}


def counted(layers: Mapping[str, int]) -> str:
    """Numbers of layers by precision, in words."""
    return ", ".join(f"{count} in {precision}" for precision, count in layers.items())


def read_claims(precision: Mapping[str, Any]) -> list[Claim]:
    """The claims in a manifest, with the precisions that the build saw.

    Args:
        precision: section ``precision`` of the manifest.

    Raises:
        EngineError: the claims are malformed.
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
    """The claims in a manifest, with the precisions that execute on this machine.

    Args:
        precision: section ``precision`` of the manifest.
        execution: what the loaded engine executes.

    Raises:
        EngineError: the claims are malformed.
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
    """Number of layers of a class that may execute in another precision on this machine, by precision.

    The build counted those in float32, unless it ran on a processor that executes all of them in float32.
    """
    if not claim.checked or claim.layers == "products":
        return claim.besides
    return {**claim.besides, "fp32": most_in_float32(executed)}


def most_in_float32(executed: Mapping[str, int]) -> int:
    """Largest number of layers of a class that may execute in float32 although bfloat16 is claimed.

    A library leaves some norms of a bfloat16 engine in float32: those behind a float32 branch of the model. They are
    fewer than half of the norms; if there are more, the library ignored the precision. Not for matrix products.

    Args:
        executed: number of layers of the class by precision.
    """
    return max(sum(executed.values()) - 1, 0) // 2


@contextmanager
def differences_known() -> Iterator[None]:
    """Silence the warning about precisions other than claimed while the block lasts, for callers that report them."""
    logger = logging.getLogger("kdcmae.runtime")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _added(tables: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    kinds: dict[str, list[Mapping[str, int]]] = {}
    for table in tables:
        for kind, counts in table.items():
            kinds.setdefault(kind, []).append(counts)
    return {kind: _total(counts) for kind, counts in sorted(kinds.items())}


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter[str]()))
