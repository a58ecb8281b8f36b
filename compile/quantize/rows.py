"""Split wide int8 layers of an OpenVINO model so that oneDNN does not compute padding rows.

The kernels compute the rows (tokens) of a wide layer in blocks of 64, and a last block of few rows takes as long as a
full one: 196 tokens of a picture take as long as 256. So those few rows get a product of their own, which costs almost
nothing. Splitting and joining the rows of one sample moves no data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcmae.runtime.openvino_library import import_openvino

__all__ = ["join_short_blocks", "split_short_blocks"]

_BLOCK = 64
_SHORT = 16  # rows; a last block with more is not split


def split_short_blocks(model: Any) -> int:
    """Split the layers before a GELU whose last block of rows is short.

    Args:
        model: an ``openvino.Model`` quantised by NNCF; changed in place.

    Returns:
        How many layers were split.
    """
    cut = 0
    for gelu in [op for op in model.get_ops() if op.get_type_name() == "Gelu"]:
        chain = _chain(gelu)
        if chain is not None and (rows := _rows(chain[0].input_value(0))):
            _split(chain, rows)
            cut += 1
    model.validate_nodes_and_infer_types()
    return cut


def join_short_blocks(model: Any) -> int:
    """Undo :func:`split_short_blocks`.

    Args:
        model: an ``openvino.Model``; changed in place.

    Returns:
        How many layers had been split.
    """
    joined = 0
    for split in [op for op in model.get_ops() if op.get_type_name() == "VariadicSplit"]:
        chain = [next(iter(split.output(0).get_target_inputs())).get_node()]
        while chain[-1].get_type_name() in ("MatMul", "Add", "Gelu", "Multiply", "FakeQuantize"):
            chain.append(next(iter(chain[-1].output(0).get_target_inputs())).get_node())
        *chain, concat = chain
        if not chain or concat.get_type_name() != "Concat":
            continue
        value = split.input_value(0)
        for op in chain:
            value = _again(op, value)
        for reader in concat.output(0).get_target_inputs():
            reader.replace_source_output(value)
        joined += 1
    return joined


def _chain(gelu: Any) -> list[Any] | None:
    """The quantised product before a GELU, and what follows until its results are rounded; None where there is none."""
    add = gelu.input_value(0).get_node()
    product = add.input_value(0).get_node() if add.get_type_name() == "Add" else add
    if product.get_type_name() != "MatMul" or product.input_value(0).get_node().get_type_name() != "FakeQuantize":
        return None
    chain = [product, add, gelu]
    while chain[-1].get_type_name() in ("Gelu", "Multiply"):
        readers = chain[-1].output(0).get_target_inputs()
        if len(readers) != 1:
            return None
        chain.append(next(iter(readers)).get_node())
    return chain if chain[-1].get_type_name() == "FakeQuantize" else None


def _rows(value: Any) -> tuple[int, int] | None:
    """Rows in full blocks, and the remaining few; None if no split is worth it, or there are several samples."""
    shape = value.get_partial_shape()
    if shape.is_dynamic or len(shape) != 3 or shape[0].get_length() != 1:
        return None
    rows = shape[1].get_length()
    short = rows % _BLOCK
    return (rows - short, short) if rows > _BLOCK and 0 < short <= _SHORT else None


def _split(chain: list[Any], rows: tuple[int, int]) -> None:
    ops = import_openvino().opset13
    readers = chain[-1].output(0).get_target_inputs()
    axis = ops.constant(np.int64(1))
    parts = ops.variadic_split(chain[0].input_value(0), axis, ops.constant(np.array(rows, dtype=np.int64)))
    results = []
    for part in parts.outputs():
        value = part
        for op in chain:
            value = _again(op, value)
        results.append(value)
    joined = ops.concat(results, 1)
    for reader in readers:
        reader.replace_source_output(joined.output(0))


def _again(op: Any, value: Any) -> Any:
    """The same operation on another value."""
    ops, others = import_openvino().opset13, op.input_values()[1:]
    kind, attributes = op.get_type_name(), op.get_attributes()
    if kind == "MatMul":
        made = ops.matmul(value, others[0], False, attributes["transpose_b"])
    elif kind == "Gelu":
        made = ops.gelu(value, attributes["approximation_mode"].lower())
    elif kind == "FakeQuantize":
        made = ops.fake_quantize(value, *others, attributes["levels"])
    else:
        made = {"Add": ops.add, "Multiply": ops.multiply}[kind](value, others[0])
    return made.output(0)
