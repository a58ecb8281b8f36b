"""Reference outputs: what the PyTorch model in float32 computes for the inputs that a build is proved on.

They are the longest step of a build of a large model: a clip of the base model takes a second where an engine takes a
third. Therefore no input is computed twice, and linear layers use the faster of the float32 libraries that PyTorch has.
The stages that follow check that library: ONNX Runtime and the exported program compute their products with others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import models
from kdcmae.compile.models import EngineModel
from kdcmae.linear import inference_products_by_onednn
from kdcmae.progress import counted
from kdcmae.runtime.arrays import Arrays

__all__ = ["concatenated", "digests", "outputs_of", "remembered"]

_CHUNK = 8  # samples that the model computes at once


def remembered(model: EngineModel) -> EngineModel:
    """The same model, whose reference outputs are computed once for each input.

    Args:
        model: with its weights. Outputs that were computed before they are freed are known afterwards too.
    """
    return dataclasses.replace(model, reference=_Remembered(model))


def outputs_of(model: EngineModel, samples: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """The reference outputs of samples, in chunks that keep the memory small; the running step tells of each.

    Args:
        model: the model.
        samples: inputs by name, of one sample each and all of the same shapes.

    Returns:
        The outputs of all samples, by name.
    """
    chunks = [samples[first : first + _CHUNK] for first in range(0, len(samples), _CHUNK)]
    return concatenated([models.reference(model, concatenated(chunk)) for chunk in counted(chunks)])


def concatenated(batches: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Batches of arrays by name as one batch."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


class _Remembered:
    """Computes the outputs of samples that it has not seen, and remembers those of every sample by its content."""

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self._rows: dict[bytes, Arrays] = {}

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        keys = list(digests(inputs))
        unknown = {key: row for row, key in enumerate(keys) if key not in self._rows}
        if unknown:
            rows = sorted(unknown.values())
            with inference_products_by_onednn():
                outputs = models.reference(self._model, {name: array[rows] for name, array in inputs.items()})
            for number, row in enumerate(rows):
                self._rows[keys[row]] = {name: array[number : number + 1] for name, array in outputs.items()}
        return concatenated([self._rows[key] for key in keys])


def digests(inputs: Arrays) -> Iterator[bytes]:
    """A digest per sample of a batch, over its names, types, shapes and values."""
    for row in range(len(next(iter(inputs.values())))):
        sha256 = hashlib.sha256()
        for name in sorted(inputs):
            array = inputs[name][row]
            sha256.update(f"{name} {array.dtype} {array.shape}\n".encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
        yield sha256.digest()
