"""INT8 for ONNX Runtime with ranges of activations that are found at run time, per batch.

``DynamicQuantizeLinear`` and ``MatMulInteger`` become one kernel, which rounds less than fixed ranges do and needs no
rounding of its own between layers. A range spans all samples of a batch, so that a sample's result would depend on the
others: this form is for engines of batch 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.quantize.qdq import Stored
from kdcmae.compile.variants import Source, Variant
from kdcmae.compile.weights import WeightsFile, data_file

__all__ = ["VARIANT", "write_dynamic"]


def write_dynamic(source: Source, path: Path) -> bool:
    """Write the graph with the quantised layers in that form.

    Args:
        source: the float graph, and the names of the layers.
        path: of the file to write, its weights in ``<name>.data`` beside it.

    Returns:
        True: every quantised graph has such layers.
    """
    import onnx

    model = onnx.load(source.floating, load_external_data=False)
    chosen = products_of(model.graph, source.layers)
    with WeightsFile(data_file(path)) as file:
        stored = Stored(model.graph, source.floating.parent, "int8", file, unsigned=source.saturates)
        nodes, rounded = [], set()
        for node in model.graph.node:
            if node.name not in chosen:
                nodes.append(node)
                continue
            if node.input[0] not in rounded:
                rounded.add(node.input[0])
                nodes.append(_rounding(node.input[0]))
            nodes += _product(node, *stored.weights(node.input[1]))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        stored.keep_others()
    onnx.save_model(model, path)
    return True


def _rounding(name: str) -> Any:
    from onnx import helper

    outputs = [f"{name}.rounded", f"{name}.scale", f"{name}.zero"]
    return helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}.round")


def _product(node: Any, weights: str, scales: str, zeros: str) -> list[Any]:
    """The nodes of a product on integers, with the name and the result of the float one."""
    from onnx import TensorProto, helper

    value, name, result = node.input[0], node.name, node.output[0]
    integers = [f"{value}.rounded", weights, f"{value}.zero", zeros]
    return [
        helper.make_node("MatMulInteger", integers, [f"{result}.sum"], name=f"{name}.integers"),
        helper.make_node("Cast", [f"{result}.sum"], [f"{result}.wide"], name=f"{name}.wide", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{value}.scale", scales], [f"{result}.scale"], name=f"{name}.scale"),
        helper.make_node("Mul", [f"{result}.wide", f"{result}.scale"], [result], name=name),
    ]


VARIANT = Variant(
    name="dynamic-ranges",
    reason="activations are rounded to the range of each clip, in one kernel with their product",
    precisions=("int8",),
    write=write_dynamic,
    suffix=".onnx",
    largest_batch=1,
)
