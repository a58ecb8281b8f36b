"""The stages of a build as data: each form that a model takes on its way to an engine.

A build yields its stages one after the other. The parity ladder (:mod:`kdcmae.compile.parity`) runs each and compares
its outputs; a diagnosis (:mod:`kdcmae.compile.diagnose`) looks inside the same stages, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.precisions import Gate

if TYPE_CHECKING:
    from kdcmae.compile.parity import Case

__all__ = ["ROUNDED", "Run", "Stage", "Values"]

Run = Callable[[Arrays], Arrays]
"""From inputs to outputs, by name."""

Values = Callable[[Sequence[str], Arrays], Arrays]
"""From names of modules, and inputs, to the outputs of those modules that the stage has, by the module's name."""

ROUNDED = "rounded"
"""The precision of a quantised graph executed in float32: its values are rounded to 8 bits, its products are not."""


_TITLES = {"program": "the program", "onnx": "ONNX", "quantized": "the quantised graph"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One form of a model on its way to an engine.

    Whoever holds a stage may hold all the weights of the model: drop it before asking the build for the next one.

    Args:
        name: its rung of the ladder: ``program``, ``onnx``, ``quantized``, ``engine`` or ``artifact``.
        gate: limits for its outputs.
        computes: the precisions that it computes in.
        run: from the model's inputs to its outputs; None if it cannot or need not be run.
        values: the outputs of modules inside it; None where it gives none.
        note: how it runs, or why it does not.
        cases: what it is run on, where that is not what every rung can afford.
    """

    name: str
    gate: Gate
    computes: frozenset[str] = frozenset()
    run: Run | None = None
    values: Values | None = None
    note: str = ""
    cases: tuple[Case, ...] = ()

    @property
    def title(self) -> str:
        """For people, as in "verify the program"."""
        return _TITLES.get(self.name, self.name)
