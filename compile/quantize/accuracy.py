"""What an engine or a quantised graph costs on labelled clips that it did not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays
from kdcmae.compile.quantize import openvino
from kdcmae.compile.quantize.calibration import Clips
from kdcmae.compile.sessions import open_session
from kdcmae.errors import ConfigError

__all__ = ["Accuracy", "Evaluation", "open_graph"]


def open_graph(graph: Path, *, floating: bool = False) -> Callable[[Arrays], Arrays]:
    """What runs a quantised graph on the CPU: OpenVINO for an IR, ONNX Runtime for an ONNX file.

    Args:
        graph: the file.
        floating: compute in float32 with what was rounded to 8 bits, whatever the machine's integer kernels do.
    """
    if graph.suffix == ".xml":
        return openvino.open_model(graph, floating=floating)
    return open_session(graph, floating=floating)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 on held-out clips, in per cent.

    Args:
        source, clips: what was classified.
        reference: of the float32 model.
        quantized: of the quantised graph, or of another engine.
        agreement: clips that both give the same first class.
    """

    source: str
    clips: int
    reference: float
    quantized: float
    agreement: float

    @property
    def drop(self) -> float:
        """Percentage points lost."""
        return self.reference - self.quantized


class Evaluation:
    """Classifies the same clips with the float32 model, once, and with what is made of it.

    Args:
        model: a classifier with its weights; what an untrained one answers counts as right: its labels mean nothing.
        clips: labelled with its classes.

    Raises:
        ConfigError: a model that does not classify.
        DataError: labels that the model does not have.
    """

    def __init__(self, model: EngineModel, clips: Clips) -> None:
        if not model.labels:
            raise ConfigError("--max-drop is about the accuracy of a classifier; this model has no classes")
        self._clips = clips
        self._output = model.outputs[0].name
        self._reference = self._first_classes([models.reference(model, batch) for batch in clips.batches])
        if model.facts["random_weights"]:
            self._source = f"{clips.source}, labelled by the model itself"
            self._targets = self._reference[:, None] == np.arange(len(model.labels))
        else:
            self._source, self._targets = clips.source, clips.targets(model.labels)

    def measure(self, run: Callable[[Arrays], Arrays]) -> Accuracy:
        """Classify the clips with something else.

        Args:
            run: from inputs to outputs by name, such as :func:`open_graph` gives.
        """
        found = self._first_classes([run(batch) for batch in self._clips.batches])
        return Accuracy(
            source=self._source,
            clips=self._clips.count,
            reference=self._top1(self._reference),
            quantized=self._top1(found),
            agreement=100 * float((found == self._reference).mean()),
        )

    def _first_classes(self, outputs: list[Arrays]) -> NDArray[np.intp]:
        logits = np.concatenate([np.asarray(output[self._output]) for output in outputs])
        return logits[: self._clips.count].argmax(axis=1)

    def _top1(self, classes: NDArray[np.intp]) -> float:
        return 100 * float(self._targets[np.arange(len(classes)), classes].mean())
