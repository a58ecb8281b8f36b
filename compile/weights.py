"""Weights in a file beside the graph, written and read one by one.

As parts of an ONNX graph they would be in memory several times over: as protobuf takes them in, and as it writes them
out. What a message once held it frees only with the whole graph, so content is never put into a graph's own tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

__all__ = ["SHARED_WEIGHTS", "WeightsFile", "data_file", "detached", "read_values", "share_weights"]

SHARED_WEIGHTS = "weights.bin"
"""The file of the weights that several engines in one folder share."""

_ALIGNMENT = 64
_SMALLEST = 1024  # bytes; smaller tensors stay in the graph


def data_file(graph: Path) -> Path:
    """Where the weights of a graph are."""
    return graph.with_name(f"{graph.name}.data")


def detached(tensor: Any, folder: Path) -> Any:
    """A copy of an initializer with its content in it, which is freed with the copy.

    Args:
        tensor: an ``onnx.TensorProto``.
    """
    from onnx import TensorProto, external_data_helper

    copy = TensorProto()
    copy.CopyFrom(tensor)
    if external_data_helper.uses_external_data(copy):
        external_data_helper.load_external_data_for_tensor(copy, str(folder))
        copy.data_location = TensorProto.DEFAULT
        del copy.external_data[:]
    return copy


def read_values(tensor: Any, folder: Path) -> NDArray[Any]:
    """The values of an initializer.

    Args:
        tensor: an ``onnx.TensorProto``.
    """
    from onnx import numpy_helper

    values: NDArray[Any] = numpy_helper.to_array(detached(tensor, folder))
    return values


class WeightsFile:
    """A new file of byte strings, each there once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> WeightsFile:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def place(self, content: bytes) -> int:
        """Where the content is, in bytes from the start; it is written where it is not there yet."""
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
            self._places[key] = self._file.tell()
            self._file.write(content)
        return self._places[key]

    def move(self, tensor: Any) -> None:
        """Move the content of an ``onnx.TensorProto`` into the file, where it is large enough to be worth it.

        Args:
            tensor: a detached one; its graph is going to lie beside the file.
        """
        from onnx import external_data_helper

        content = tensor.raw_data
        if len(content) >= _SMALLEST:
            external_data_helper.set_external_data(tensor, self._path.name, self.place(content), len(content))
            tensor.ClearField("raw_data")


def share_weights(graphs: Sequence[Path]) -> str:
    """Put the weights of ONNX files into one file beside the first, as external data.

    Args:
        graphs: the files, changed in place; their own files of weights are removed.

    Returns:
        The name of the file.
    """
    import onnx

    with WeightsFile(graphs[0].with_name(SHARED_WEIGHTS)) as file:
        for path in graphs:
            model = onnx.load(path, load_external_data=False)
            for tensor in model.graph.initializer:
                moved = detached(tensor, path.parent)
                file.move(moved)
                tensor.CopyFrom(moved)
            onnx.save(model, path)
            data_file(path).unlink(missing_ok=True)
    return SHARED_WEIGHTS
