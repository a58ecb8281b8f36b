"""The attention of an OpenVINO model, arranged for integer kernels before and after NNCF sees it.

One product for queries, keys and values ends in a split, and what scales integers back to floating point can only be
part of a product that it directly follows: behind a split it becomes three passes over memory. So each part gets a
product of its own. Queries and keys then leave their products as int8, and their own product, the scores, runs on
integers as well. The softmax and what it weights stay in floating point: among hundreds of tokens, most weights are
smaller than a step of eight bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from kdcmae.runtime.openvino_library import import_openvino

__all__ = ["balance_scores", "behind", "release_scores", "score_products", "separate_products"]

_MOVES = ("Reshape", "Transpose")  # these only move data
_LEVELS = 256


def separate_products(model: Any, products: Collection[str]) -> dict[str, str]:
    """Replace every product that is split along its last axis by a product per part.

    Args:
        model: an ``openvino.Model`` in float32; changed in place.
        products: names of the products that may be replaced.

    Returns:
        The new products' names, with the name of the one that they stand for.
    """
    made: dict[str, str] = {}
    for split in [op for op in model.get_ops() if op.get_type_name() == "Split"]:
        add = split.input_value(0).get_node()
        product = add.input_value(0).get_node()
        if product.get_friendly_name() in products and _is_linear(add):
            made |= _separate(split, add, product)
    model.validate_nodes_and_infer_types()
    return made


def score_products(model: Any, products: Collection[str]) -> set[str]:
    """Names of the products of queries and keys where both come from these products.

    Args:
        model: an ``openvino.Model``.
    """
    return {
        scores.get_friendly_name()
        for scores in _scores(model)
        if all(_origin(value.get_node()).get_friendly_name() in products for value in scores.input_values())
    }


def balance_scores(model: Any) -> None:
    """Quantise queries and keys where they leave their products, and symmetrically.

    There a product rounds its own results. Integer kernels for two activations have no zero points.

    Args:
        model: an ``openvino.Model`` quantised by NNCF; changed in place.
    """
    for scores in _scores(model):
        for value in scores.input_values():
            quantize = behind(value.get_node(), _MOVES)
            if quantize.get_type_name() == "FakeQuantize":
                _balance(quantize)
    model.validate_nodes_and_infer_types()


def release_scores(model: Any) -> int:
    """Undo what :func:`balance_scores` did: queries and keys stay in floating point, and so does their product.

    Args:
        model: an ``openvino.Model``; changed in place.

    Returns:
        How many queries and keys were quantised.
    """
    released = 0
    for scores in _scores(model):
        for value in scores.input_values():
            quantize = behind(value.get_node(), _MOVES)
            if quantize.get_type_name() == "FakeQuantize":
                for reader in quantize.output(0).get_target_inputs():
                    reader.replace_source_output(quantize.input_value(0))
                released += 1
    return released


def _balance(quantize: Any) -> None:
    ops = import_openvino().opset13
    largest = max(float(np.abs(quantize.input_value(port).get_node().data).max()) for port in (1, 2))
    for reader in quantize.output(0).get_target_inputs():
        reader.replace_source_output(quantize.input_value(0))
    first = quantize.input(0)
    while first.get_source_output().get_node().get_type_name() in _MOVES:
        first = first.get_source_output().get_node().input(0)
    source = first.get_source_output()
    readers = source.get_target_inputs()
    low, high = (ops.constant(np.float32(largest * side)) for side in (-1, 1 - 2 / _LEVELS))
    rounded = ops.fake_quantize(source, low, high, low, high, _LEVELS)
    for reader in readers:
        reader.replace_source_output(rounded.output(0))


def _scores(model: Any) -> Iterator[Any]:
    """The products whose softmax is taken."""
    for op in model.get_ops():
        if op.get_type_name() == "Softmax":
            product = op.input_value(0).get_node()
            if product.get_type_name() == "MatMul":
                yield product


def _is_linear(add: Any) -> bool:
    """A product with constant weights, and a constant bias."""
    product = add.input_value(0).get_node()
    weights, bias = product.input_value(1).get_node(), add.input_value(1).get_node()
    return (
        (add.get_type_name(), product.get_type_name()) == ("Add", "MatMul")
        and weights.get_type_name() == bias.get_type_name() == "Constant"
        and not product.get_attributes()["transpose_b"]
    )


def _separate(split: Any, add: Any, product: Any) -> dict[str, str]:
    ops = import_openvino().opset13
    name, parts = product.get_friendly_name(), split.get_output_size()
    weights = np.split(product.input_value(1).get_node().data, parts, axis=1)
    biases = np.split(add.input_value(1).get_node().data, parts)
    made = {}
    for part, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        own = ops.matmul(product.input_value(0), ops.constant(np.ascontiguousarray(weight)), False, False)
        own.set_friendly_name(f"{name}/{part}")
        total = ops.add(own, ops.constant(np.ascontiguousarray(bias)))
        total.set_friendly_name(f"{add.get_friendly_name()}/{part}")
        for reader in split.output(part).get_target_inputs():
            reader.replace_source_output(total.output(0))
        made[own.get_friendly_name()] = name
    return made


def _origin(node: Any) -> Any:
    """The product that a query or a key comes from: before its bias, its scale and its change of layout."""
    return behind(node, (*_MOVES, "Multiply", "Add"))


def behind(node: Any, kinds: Collection[str]) -> Any:
    """The first node, on the way to a node's inputs, that is of none of these kinds."""
    while node.get_type_name() in kinds:
        node = node.input_value(0).get_node()
    return node
