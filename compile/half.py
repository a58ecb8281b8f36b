"""The precision of each part of a graph in half precision: what stays float32 so that the engine passes its gates.

fp16 ends at 65504. A trained transformer often has a few channels of its residual stream far above the others, and
some exceed that; then the outputs of an fp16 engine are infinite. The residual stream of such a model stays float32,
and so do layers with values as large. If a rung of the ladder is out of its gate all the same, the build starts again
with more in float32, until it passes or nothing more can help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdcmae.compile import export, layer_errors
from kdcmae.compile.lowering import InFloat32, Precision, lower, usual
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Ladder
from kdcmae.compile.peaks import FP16_LARGEST, Peaks, exceeds, needed
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import GateError
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.precisions import Gate
from kdcmae.runtime.targets import TARGETS

__all__ = ["GraphPrecision"]

_RESIDUAL = "the residual stream"
_THROUGHOUT = "throughout"  # the folder of the graph that keeps nothing in float32, to time beside


class GraphPrecision:
    """What of a model is lowered to the precision of its graph, and what stays float32.

    Args:
        body: what is lowered, with its weights.
        peaks: of the model.
        wider: finds what else to leave in float32, as :func:`kdcmae.compile.layer_errors.wider` does.
    """

    def __init__(
        self,
        body: EngineModel,
        settings: CompileSettings,
        peaks: Peaks,
        *,
        wider: Callable[..., InFloat32 | None] = layer_errors.wider,
    ) -> None:
        self._body = body
        self._settings = settings
        self._precision: Precision = settings.floating  # type: ignore[assignment]
        self._peaks = peaks
        self._wider = wider
        self._kept = needed(peaks) or usual(self._precision)

    def lower(self) -> nn.Module:
        """The module to export."""
        return lower(self._body.module, self._precision, self._kept)

    def export_throughout(self, folder: Path) -> Path | None:
        """Write the graph that keeps nothing in float32, to time beside.

        None where that is the graph itself, or this target's graphs are not timed while an engine is built.
        """
        if self._kept == usual(self._precision) or not TARGETS[self._settings.target].runs_on_cpu_only:
            return None
        graph = folder / _THROUGHOUT / "graph.onnx"
        graph.parent.mkdir()
        lowered = lower(self._body.module, self._precision)
        export.export_onnx(self._body, export.export_program(self._body, lowered, self._settings.batch), graph)
        return graph

    def widen(
        self,
        error: GateError,
        ladder: Ladder,
        gate: Gate,
        *,
        behind_frontend: Callable[[Arrays], Arrays],
        reload: Callable[[], EngineModel] | None,
    ) -> None:
        """Leave more in float32 before the build starts again.

        Args:
            error: of the build so far.
            ladder: as far as it got.
            behind_frontend: from the inputs of a case to those of the body.
            reload: makes the model again, whose weights may have been freed; None where nothing can.

        Raises:
            GateError: that error, where nothing more can help.
        """
        rung = ladder.rungs[-1] if ladder.rungs else None
        if rung is None or rung.status != "failed":
            raise error
        if any(parameter.is_meta for parameter in self._body.module.parameters()):
            if reload is None:
                raise error
            self._restore(reload())
        feed = behind_frontend(ladder.worst_batch(rung))
        more = self._wider(self._body, self._precision, self._kept, feed, gate)
        if more is None:
            tried = ", ".join(self._names())
            nor = f"nor does it pass with {tried} in float32, and " if tried else ""
            raise GateError(
                f"{error}; {nor}with more in float32 it would hardly be a {self._precision} engine; use "
                f"--precision fp32"
            ) from error
        self._kept = more

    def to_dict(self, speed: Mapping[str, Any]) -> dict[str, Any]:
        """What stays float32 and why, as plain data for the manifest; empty where it is the usual.

        ``limit``, where fp16 ends; ``parts``, each with its ``name``, ``largest`` magnitude (None where none was
        measured) and ``exceeds``: whether that is why, rather than the gate; ``speed`` where it was measured.

        Args:
            speed: how fast the graph is beside the one that keeps nothing in float32, as
                :func:`kdcmae.compile.latency.compare_latency` gives it; empty where that was not measured.
        """
        if self._kept == usual(self._precision):
            return {}
        largest = {_RESIDUAL: self._peaks.residual, **self._peaks.layers}
        parts = [(name, largest.get(name, 0.0)) for name in self._names()]
        return {
            "limit": FP16_LARGEST,
            "parts": [{"name": name, "largest": peak or None, "exceeds": exceeds(peak)} for name, peak in parts],
            **({"speed": dict(speed)} if speed else {}),
        }

    def _names(self) -> list[str]:
        """What stays float32 in this model and not in every one."""
        residual = self._kept.residual and not usual(self._precision).residual
        return [_RESIDUAL] * residual + list(self._kept.layers)

    def _restore(self, again: EngineModel) -> None:
        """Give the body its weights back, of the same model or of the part behind its preprocessing."""
        module = again.module if again.parts is None or again.inputs == self._body.inputs else again.parts.body.module
        self._body.module.load_state_dict(module.state_dict(), assign=True)
