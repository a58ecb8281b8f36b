"""Variants of OpenVINO's graphs: which kernels the CPU plugin takes depends on the form of a graph.

The plain form has, in int8, a product each for queries, keys and values, scores on integers where the processor has
kernels for them, and wide layers in blocks of 64 rows; in bf16, attention spelled out with a softmax in float32. Each
variant undoes or replaces one of these. Weights in 7 bits for processors without VNNI are no variant: without them the
engine is wrong there (:mod:`kdcmae.compile.quantize.openvino`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcmae.compile.quantize import attention, rows
from kdcmae.compile.targets.ir import keep_frontend_float32
from kdcmae.compile.variants import Source, Variant
from kdcmae.runtime.openvino import widen
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

__all__ = ["VARIANTS"]


def _write(change: Callable[[Any], object], source: Source, path: Path) -> bool:
    """Save the changed graph; ``change`` gives what it changed."""
    model = openvino_core().read_model(source.graph)
    if not change(model):
        return False
    _save(model, path)
    return True


def _save(model: Any, path: Path) -> None:
    model.validate_nodes_and_infer_types()
    import_openvino().save_model(model, path, compress_to_fp16=False)


def _write_widened(source: Source, path: Path) -> bool:
    """The graph with float32 types; what has to stay float32 is marked first, while its types tell."""
    marked = path.with_name("marked.xml")
    _save(openvino_core().read_model(source.graph), marked)
    keep_frontend_float32(marked)
    model = openvino_core().read_model(marked)
    if not widen(model):
        return False
    _save(model, path)
    return True


def _separate_products(model: Any) -> object:
    products = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "MatMul"]
    return attention.separate_products(model, products)


def _fuse_attention(model: Any) -> int:
    """Replace the products and the softmax of attention by one operation."""
    fused = 0
    for softmax in [op for op in model.get_ops() if op.get_type_name() == "Softmax"]:
        scores = _behind_converts(softmax.input_value(0)).get_node()
        weighted = _reader_behind_converts(softmax)
        if scores.get_type_name() == "MatMul" == (weighted.get_type_name() if weighted else ""):
            keys = _untransposed(scores)
            if keys is not None:
                _fuse(scores.input_value(0), keys, weighted)
                fused += 1
    return fused


def _fuse(queries: Any, keys: Any, weighted: Any) -> None:
    ops = import_openvino().opset13
    kind = queries.get_element_type().to_string()
    # No mask, and queries are scaled already.
    mask, scale = (ops.constant(np.float32(value)) for value in (0, 1))
    if kind != "f32":
        mask, scale = ops.convert(mask, kind), ops.convert(scale, kind)
    made = ops.scaled_dot_product_attention(queries, keys, weighted.input_value(1), mask, scale, False)
    for reader in weighted.output(0).get_target_inputs():
        reader.replace_source_output(made.output(0))


def _behind_converts(value: Any) -> Any:
    while value.get_node().get_type_name() == "Convert":
        value = value.get_node().input_value(0)
    return value


def _reader_behind_converts(op: Any) -> Any:
    """The only operation that reads a result, behind conversions; None where several do."""
    while True:
        readers = op.output(0).get_target_inputs()
        if len(readers) != 1:
            return None
        op = next(iter(readers)).get_node()
        if op.get_type_name() != "Convert":
            return op


def _untransposed(scores: Any) -> Any:
    """The keys (..., tokens, width) of a product of queries and transposed keys; None where they are not transposed."""
    if scores.get_attributes()["transpose_b"]:
        return scores.input_value(1)
    transpose = scores.input_value(1).get_node()
    if transpose.get_type_name() != "Transpose":
        return None
    *leading, before_last, last = transpose.input_value(1).get_node().data.tolist()
    ops = import_openvino().opset13
    order = np.array([*leading, last, before_last], dtype=np.int64)
    return ops.transpose(transpose.input_value(0), ops.constant(order)).output(0)


def _variant(name: str, precision: str, reason: str, write: Callable[[Source, Path], bool]) -> Variant:
    return Variant(name=name, reason=reason, precisions=(precision,), write=write, suffix=".xml")


# Where two are equally fast, the first is taken.
VARIANTS = (
    _variant(
        "fused-attention",
        "bf16",
        "attention is one operation, so that no conversion around the softmax keeps the plugin from fusing it",
        partial(_write, _fuse_attention),
    ),
    _variant(
        "float-typed",
        "bf16",
        "all types are float32 and the precision hint alone makes it bf16, so that no conversion stands between layers",
        _write_widened,
    ),
    _variant(
        "three-products",
        "fp32",
        "queries, keys and values have a product each, so that nothing is split",
        partial(_write, _separate_products),
    ),
    _variant(
        "float-scores",
        "int8",
        "queries and keys are multiplied in floating point: integer scores keep some processors from fusing attention",
        partial(_write, attention.release_scores),
    ),
    _variant(
        "whole-rows",
        "int8",
        "wide layers are not cut into blocks of 64 rows, which only some kernels compute in",
        partial(_write, rows.join_short_blocks),
    ),
)
