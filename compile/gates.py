"""The precision gate: what a built engine executes, as its library reports it, against what is claimed of it.

Layers fall into classes whatever the library calls them: matrix products, norms and softmax, the products inside
attention where a library tells them apart, and a frontend that is a model of its own. A layer may execute in another
precision than its class claims only where the graph handed to the library says so, as for the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdcmae.compile.settings import QUANTIZED
from kdcmae.errors import GateError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from kdcmae.compile.settings import CompileSettings
    from kdcmae.compile.targets import BuiltEngine

__all__ = ["Claim", "claims", "declared_products", "require_claims"]

_LAYERS = {
    "norms": ("MVN", "LayerNormalization", "SkipLayerNormalization", "NORMALIZATION"),
    "softmax": ("Softmax", "SOFTMAX"),
}
# OpenVINO's CPU plugin runs every layer in the precision of its hint, whatever the types of the IR; the others keep
# the float32 that the graph gives to norms and softmax.
_ONE_PRECISION_TARGETS = ("openvino",)
_PRODUCTS = ("addmm", "baddbmm", "bmm", "conv1d", "conv2d", "convolution", "einsum", "linear", "matmul", "mm")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One layer class of an engine.

    Args:
        layers: ``products``, ``attention``, ``norms``, ``softmax``, ``frontend``, or the ``kernels`` of a plan.
        claimed: the precision it executes in.
        besides: layers that the graph has in another precision on purpose, by precision.
        executed: layers by the precision that the library reports; empty where it reports none.
    """

    layers: str
    claimed: str
    besides: Mapping[str, int]
    executed: Mapping[str, int]

    @property
    def holds(self) -> bool | None:
        """Nothing executes in another precision than claimed, beyond what the graph has on purpose.

        None where the library reports nothing here, so that nothing was checked.
        """
        if not self.executed:
            return None
        others = {found: count for found, count in self.executed.items() if found != self.claimed}
        within = all(count <= self.besides.get(found, 0) for found, count in others.items())
        return self.claimed in self.executed and within

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest."""
        return {**asdict(self), "holds": self.holds}


def declared_products(program: ExportedProgram) -> dict[str, int]:
    """The matrix products of an exported program, counted by precision."""
    names = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}
    counts: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function" and getattr(node.target, "__name__", "").partition(".")[0] in _PRODUCTS:
            counts[names.get(str(node.meta["val"].dtype), "other")] += 1
    return dict(counts)


def claims(settings: CompileSettings, declared: Mapping[str, int], built: BuiltEngine) -> list[Claim]:
    """What is claimed of an engine, class by class, beside what it executes.

    Args:
        settings: of the build.
        declared: matrix products by precision in the graph that the library got.
        built: what the library made of it.
    """
    claimed = settings.claimed()
    besides = {found: count for found, count in declared.items() if found != claimed}
    found = [Claim(layers="products", claimed=claimed, besides=besides, executed=dict(built.products))]
    if built.frontend:
        executed = sum((Counter(counts) for counts in built.frontend.values()), Counter[str]())
        found.append(Claim(layers="frontend", claimed="fp32", besides={}, executed=dict(executed)))
    if built.kernels is not None:
        # They fuse layers of several classes, which keep the types of the graph: what must be there is the one claimed.
        found.append(Claim(layers="kernels", claimed=claimed, besides=built.kernels, executed=dict(built.kernels)))
    # What is not quantised in a quantised engine has a precision of its own.
    one = settings.target in _ONE_PRECISION_TARGETS and claimed not in QUANTIZED
    floating = claimed if one else built.floating
    for layers, counts in _classes(built):
        # Some may keep the float32 that every graph gives them, such as behind a float32 branch of the model.
        besides = {"fp32": counts["fp32"]} if counts["fp32"] and floating != "fp32" else {}
        expected = floating
        if layers == "attention" and claimed in QUANTIZED and counts[claimed]:
            # A library may run part of a quantised attention on integers.
            expected, besides = claimed, {**besides, floating: counts[floating]}
        found.append(Claim(layers=layers, claimed=expected, besides=besides, executed=dict(counts)))
    return found


def _classes(built: BuiltEngine) -> Iterator[tuple[str, Counter[str]]]:
    """Layer classes other than products with weights, and how many execute in which precision.

    A class without layers is compiled into layers of others, unless the library reports nothing at all.
    """
    if built.attention:
        yield "attention", Counter(built.attention)
    for layers, kinds in _LAYERS.items():
        counts = sum((Counter(built.executed.get(kind)) for kind in kinds), Counter[str]())
        if counts or not built.executed:
            yield layers, counts


def require_claims(found: Iterable[Claim]) -> None:
    """Refuse an engine that executes in another precision than claimed.

    Raises:
        GateError: names the layer class and what it executes in.
    """
    for claim in found:
        if claim.holds is False:
            executed = ", ".join(f"{count} in {precision}" for precision, count in claim.executed.items())
            fix = ""
            if claim.layers == "products":
                others = (precision for precision in claim.executed if precision != claim.claimed)
                other = max(others, key=lambda precision: claim.executed[precision])
                fix = f"; compile with --precision {other}, or accept it with --execute-as {other}"
            raise GateError(
                f"precision: {claim.layers} are claimed to execute in {claim.claimed}, the engine runs {executed}{fix}"
            )
