"""The preprocessing of raw inputs, for targets that want it as a model of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdcmae.compile import export, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.sessions import open_session
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.manifest import BatchRange

__all__ = ["ExportedFrontend"]


class ExportedFrontend:
    """The preprocessing of raw inputs on its way to an ONNX file of its own; always float32.

    Args:
        model: from raw to prepared inputs.
    """

    graph: Path
    run: Callable[[Arrays], Arrays]

    def __init__(self, model: EngineModel) -> None:
        self._model = model

    def export(self, batch: BatchRange) -> None:
        """Trace the preprocessing; from then on the traced program runs."""
        self._program = export.export_program(self._model, self._model.module, batch)
        module = self._program.module()
        self.run = lambda feed: models.run(self._model, module, feed)

    def export_onnx(self, path: Path) -> None:
        """Write the preprocessing as ONNX; from then on the file runs."""
        export.export_onnx(self._model, self._program, path)
        self.graph, self.run = path, open_session(path)
