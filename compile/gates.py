"""The precision gate: what a built engine executes, as its library reports it, against what is claimed of it.

A layer may execute in another precision than its class claims only where the graph handed to the library says so, as
for the head. The classes, and when a claim holds, are those of :mod:`kdcmae.runtime.execution`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kdcmae.errors import GateError
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.execution import MODEL_CLASSES, Claim, most_in_float32
from kdcmae.runtime.precisions import FLOATING, QUANTIZED, named
from kdcmae.runtime.targets import TARGETS

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from kdcmae.compile.parity import Rung
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.compile.targets import BuiltEngine

__all__ = ["SATURATES_HERE", "check_claims", "claims", "declared_products", "require_claims", "require_passed"]

SATURATES_HERE = (
    "unlike the processor that the engine is for, this machine's has no VNNI and adds integer products in 16 bits, "
    "where they saturate; kdcmae check tests the engine there"
)

_PRODUCTS = ("addmm", "baddbmm", "bmm", "conv1d", "conv2d", "convolution", "einsum", "linear", "matmul", "mm")


def declared_products(program: ExportedProgram) -> dict[str, int]:
    """The matrix products of an exported program, counted by precision."""
    names = {f"torch.{name}": precision for name, precision in named("torch", FLOATING).items()}
    counts: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function" and getattr(node.target, "__name__", "").partition(".")[0] in _PRODUCTS:
            counts[names.get(str(node.meta["val"].dtype), "other")] += 1
    return dict(counts)


def check_claims(settings: CompileSettings, declared: Mapping[str, int], built: BuiltEngine) -> list[Claim]:
    """What is claimed of an engine on the processor that it is for, as far as this machine can check it.

    Where this machine executes other precisions than that processor, what is checked is that it executes those, and the
    claim itself remains to be checked there.

    Args:
        declared: matrix products by precision in the graph that the library got.
        built: what the library made of it.

    Raises:
        GateError: this machine executes something else than it should.
    """
    claimed = claims(settings, declared, built)
    if not settings.elsewhere:
        require_claims(claimed)
        return claimed
    here = claims(settings, declared, built, executes=settings.executes_here)
    require_claims(here)
    return [
        claim if claim == checked else _to_be_checked(claim, checked, settings, built.floating)
        for claim, checked in zip(claimed, here, strict=True)
        if claim != checked or claim.executed
    ]


def _to_be_checked(claim: Claim, here: Claim, settings: CompileSettings, floating: str) -> Claim:
    """A claim that only the processor that the engine is for can check.

    Args:
        here: of the same layers on this machine, where it holds.
        floating: the precision of what is not quantised in a quantised engine, there.
    """
    besides = claim.besides
    if claim.layers != "products":
        # What executes in float32 here says nothing of what does there, but for the part of a quantised attention that
        # is not on integers.
        besides = {floating: sum(here.besides.values())} if claim.claimed in QUANTIZED else {}
    return replace(claim, besides=besides, checked=f"to be checked on {settings.elsewhere}")


def claims(
    settings: CompileSettings,
    declared: Mapping[str, int],
    built: BuiltEngine,
    *,
    executes: Callable[[str], str] = str,
) -> list[Claim]:
    """What is claimed of an engine, class by class, beside what it executes.

    Args:
        declared: matrix products by precision in the graph that the library got.
        built: what the library made of it.
        executes: what a processor executes for a precision, where it is another than the one that the engine is for.
    """
    claimed = executes(settings.claimed())
    counted: Counter[str] = Counter()
    for precision, count in declared.items():
        counted[executes(precision)] += count
    # What is not quantised in a quantised engine has a precision of its own. Norms and softmax keep the float32 of the
    # graph, unless the library gives all layers one precision.
    uniform = TARGETS[settings.target].one_precision and claimed not in QUANTIZED
    floating = claimed if uniform else executes(built.floating)
    classes = built.by_class()
    if settings.elsewhere:  # where they may be layers of their own
        classes = {**classes, **{layers: {} for layers in MODEL_CLASSES if layers not in classes}}
    checked = []
    for layers, executed in classes.items():
        kept = {}
        if floating != "fp32" and "fp32" in executed:
            kept = {"fp32": min(executed["fp32"], most_in_float32(executed))}
        expected, besides = floating, kept
        if layers == "products":
            expected, besides = claimed, {name: count for name, count in counted.items() if name != claimed}
        elif layers == "frontend":
            expected, besides = "fp32", {}
        elif layers == "kernels":
            # They fuse layers of several classes, which keep the types of the graph: only the claimed precision must be
            # among them.
            expected, besides = claimed, executed
        elif layers == "attention" and claimed in QUANTIZED and executed.get(claimed):
            # A library may run part of a quantised attention on integers.
            expected, besides = claimed, {**kept, floating: executed.get(floating, 0)}
        checked.append(Claim(layers=layers, claimed=expected, besides=besides, executed=executed))
    return checked


def require_claims(checked: Iterable[Claim]) -> None:
    """Refuse an engine that executes in another precision than claimed.

    Raises:
        GateError: names the layer class and what it executes in.
    """
    for claim in checked:
        if claim.holds is False:
            fix = ""
            if claim.layers == "products":
                others = (precision for precision in claim.executed if precision != claim.claimed)
                other = max(others, key=lambda precision: claim.executed[precision])
                fix = f"; compile with --precision {other}"
            raise GateError(f"precision: {claim}{fix}")


def require_passed(rung: Rung, *, quantized: bool) -> None:
    """Refuse a stage that is out of its gate, or much worse than the one before.

    Args:
        rung: the stage that was just compared.
        quantized: it is an engine on integers, and the stage before is its graph executed in float32.

    Raises:
        GateError: says by how much, and why where that is known.
    """
    problem = rung.problem()
    if rung.fall and quantized:
        why = "the library's integer kernels are at fault, not the rounding"
        if this_cpu().saturates_int8:
            why = "integer products saturate: this processor has no VNNI and adds two of them in 16 bits"
        raise GateError(
            f"parity: the engine does not compute what its quantised graph does: {rung.fall}; {why}; no engine was "
            f"written; use a floating --precision"
        )
    if problem:
        what = "the first rung out of tolerance is {!r}"
        if problem == rung.fall:
            what = "rung {!r} is much worse than the one before it"
        raise GateError(
            f"parity: {what.format(rung.name)}: {problem}; no engine was written; kdcmae-compile diagnose with the "
            f"same options finds the layer"
        )
