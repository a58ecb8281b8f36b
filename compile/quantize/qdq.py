"""INT8 and FP8 as ONNX with Q/DQ pairs, for TensorRT and ONNX Runtime: symmetric, as TensorRT insists on.

Each quantised product reads QuantizeLinear -> DequantizeLinear of its activations, one scale per tensor, and
DequantizeLinear of weights that are stored in 8 bits, one scale per output channel.

On x86 without VNNI, ONNX Runtime's kernels for signed weights add two products in 16 bits, where they saturate; signed
activations do not help, for they are moved to unsigned ones. Its kernels for unsigned weights widen first. So there the
same weights are stored as unsigned with a zero point of 128, which is exact, and took 7 % longer in the shipped model
and 1 % in a wider one than weights of 7 bits, which are the other way and more than doubled the error of the wider one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.sessions import require_onnxruntime, sparing_options
from kdcmae.compile.weights import WeightsFile, data_file, detached, read_values
from kdcmae.errors import EngineError
from kdcmae.runtime.precisions import PRECISIONS

if TYPE_CHECKING:
    from kdcmae.compile.quantize.calibration import Clips

__all__ = ["Stored", "declared_products", "method", "quantize"]

_UNSIGNED_ZERO = 128


def method(precision: str, *, saturates: bool = False) -> str:
    """How :func:`quantize` does it, for the manifest."""
    kind = precision if precision == "int8" else f"{precision} (E4M3)"
    stored = ", stored unsigned, so that no product saturates without VNNI" if saturates else ""
    return f"{kind} Q/DQ in ONNX, symmetric, largest absolute value, weights per channel{stored}"


def quantize(
    graph: Path, target: Path, clips: Clips, layers: Sequence[str], precision: str, *, saturates: bool = False
) -> None:
    """Write an ONNX graph with Q/DQ pairs around these layers.

    Args:
        graph: the float ONNX graph.
        target: the file to write, its weights in ``<name>.data`` beside it.
        clips: to learn the largest activations from.
        precision: ``int8`` or ``fp8``.
        saturates: for processors whose products of signed int8 weights saturate; TensorRT does not take such a graph.

    Raises:
        EngineError: activations that are not finite.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    chosen = products_of(model.graph, layers)
    inputs = {node.name: node.input[0] for node in model.graph.node if node.name in chosen}
    largest = _largest_activations(graph, sorted(set(inputs.values())), clips)
    with WeightsFile(data_file(target)) as file:
        pairs = _Pairs(model.graph, graph.parent, precision, file, unsigned=saturates)
        nodes = []
        for node in model.graph.node:
            if node.name in chosen:
                nodes += pairs.activations(node.input[0], largest[node.input[0]])
                nodes += pairs.dequantized_weights(node.input[1])
                node.input[0], node.input[1] = pairs.dequantized(node.input[0]), pairs.dequantized(node.input[1])
            nodes.append(node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        pairs.keep_others()
    onnx.save_model(model, target)


def declared_products(graph: Path, precision: str) -> dict[str, int]:
    """Matrix products of a quantised graph by precision.

    Args:
        graph: with Q/DQ pairs, as :func:`quantize` writes it, or with products of integers.
        precision: of the quantised ones; all others are float32.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    scaled = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "MatMulInteger")]
    quantized = sum(node.op_type == "MatMulInteger" or scaled.issuperset(node.input[:2]) for node in products)
    return {precision: quantized, "fp32": len(products) - quantized}


def _largest_activations(graph: Path, names: list[str], clips: Clips) -> dict[str, float]:
    """The largest absolute value that each tensor takes over the clips, reduced inside the graph."""
    import onnx
    from onnx import TensorProto, helper

    ort = require_onnxruntime()
    model = onnx.load(graph, load_external_data=False)
    peaks = [f"{name}.peak" for name in names]
    for name, peak in zip(names, peaks, strict=True):
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name}.abs"], [peak], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, ()))
    watched = graph.with_name("watched.onnx")
    onnx.save_model(model, watched)
    session = ort.InferenceSession(watched, sparing_options(ort), providers=["CPUExecutionProvider"])
    largest = np.max([session.run(peaks, dict(batch)) for batch in clips.batches], axis=0)
    watched.unlink()
    if not np.isfinite(largest).all():
        broken = names[int(np.argmin(np.isfinite(largest)))]
        raise EngineError(f"activations of {broken} are not finite on the calibration clips")
    return dict(zip(names, map(float, largest), strict=True))


class Stored:
    """Stores the weights of a graph in 8 bits, each once.

    Args:
        graph: an ``onnx.GraphProto``.
        precision: ``int8`` or ``fp8``.
        file: what the quantised weights go to.
        unsigned: store int8 weights with a zero point of 128.
    """

    def __init__(self, graph: Any, folder: Path, precision: str, file: WeightsFile, *, unsigned: bool) -> None:
        import onnx

        self._graph, self._folder, self._file = graph, folder, file
        record = PRECISIONS[precision]
        self._largest = record.largest or 0.0
        self._type = getattr(onnx.TensorProto, record.onnx)
        self._offset = _UNSIGNED_ZERO if unsigned else None
        self._initializers: Mapping[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
        self._done: set[str] = set()

    def weights(self, name: str) -> tuple[str, str, str]:
        """Store a weight (in, out), with one scale per output, and name what is stored, its scales and its zeros."""
        stored = f"{name}.quantized"
        if not self._first(name):
            return stored, *_scale_names(name)
        values = read_values(self._initializers[name], self._folder)
        scales = np.maximum(np.abs(values).max(axis=0), 1e-8).astype(np.float32) / np.float32(self._largest)
        self._add(self._stored(values / scales, self._offset), stored)
        return stored, *self._scales(name, scales, self._offset)

    def keep_others(self) -> None:
        """Store what stays in floating point, and remove the weights that nothing reads any more."""
        read = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        for tensor in kept:
            if tensor.name in self._initializers:
                moved = detached(tensor, self._folder)
                self._file.move(moved)
                tensor.CopyFrom(moved)
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _first(self, name: str) -> bool:
        new = name not in self._done
        self._done.add(name)
        return new

    def _scales(self, name: str, scales: NDArray[np.float32], offset: int | None = None) -> tuple[str, str]:
        scale, zero = _scale_names(name)
        self._add(scales, scale)
        self._add(self._stored(np.zeros_like(scales), offset), zero)
        return scale, zero

    def _stored(self, values: NDArray[np.float32], offset: int | None = None) -> NDArray[Any]:
        """Rounded to the type of the stored numbers, or to unsigned bytes around an offset."""
        import onnx

        if offset is not None:
            return (np.rint(values) + offset).astype(np.uint8)
        kind = onnx.helper.tensor_dtype_to_np_dtype(self._type)
        return (np.rint(values) if kind == np.int8 else values).astype(kind)

    def _add(self, values: NDArray[Any], name: str) -> None:
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(values, name)
        self._file.move(tensor)
        self._graph.initializer.append(tensor)


class _Pairs(Stored):
    """Adds Q/DQ pairs to a graph, each tensor once. Arguments as of :class:`Stored`."""

    @staticmethod
    def dequantized(name: str) -> str:
        """The tensor as a product reads it."""
        return f"{name}.dequantized"

    def activations(self, name: str, largest: float) -> list[Any]:
        """Quantise and dequantise a tensor, with one scale."""
        from onnx import helper

        if not self._first(name):
            return []
        scale, zero = self._scales(name, np.array(max(largest, 1e-8) / self._largest, dtype=np.float32))
        return [
            helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.quantized"], name=f"{name}.quantize"),
            helper.make_node(
                "DequantizeLinear",
                [f"{name}.quantized", scale, zero],
                [self.dequantized(name)],
                name=f"{name}.dequantize",
            ),
        ]

    def dequantized_weights(self, name: str) -> list[Any]:
        """Store a weight and dequantise it."""
        from onnx import helper

        if name in self._done:
            return []
        inputs, outputs = list(self.weights(name)), [self.dequantized(name)]
        return [helper.make_node("DequantizeLinear", inputs, outputs, name=f"{name}.dequantize", axis=1)]


def _scale_names(name: str) -> tuple[str, str]:
    return f"{name}.scale", f"{name}.zero"
