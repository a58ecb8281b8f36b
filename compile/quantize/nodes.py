"""Find the layers of the module among the nodes of its ONNX graph."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from kdcmae.errors import EngineError

__all__ = ["products_of"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_PRODUCTS = ("MatMul", "Gemm")


def products_of(graph: Any, layers: Iterable[str]) -> dict[str, str]:
    """Names of the matrix products of linear layers, with their layers.

    Args:
        graph: an ``onnx.GraphProto`` as torch's exporter writes it: each node says which module it comes from.

    Raises:
        EngineError: a graph without any of them, such as one that lost what the exporter wrote.
    """
    wanted = set(layers)
    products = {
        node.name: scope for node in graph.node if node.op_type in _PRODUCTS and (scope := _module_of(node)) in wanted
    }
    if not products:
        raise EngineError("no layer to quantise was found in the ONNX graph: its nodes do not name their modules")
    return products


def _module_of(node: Any) -> str:
    """The innermost module that a node comes from."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""
