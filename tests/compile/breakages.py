"""Ways to break an engine, as edits of its ONNX graph or of its manifest; the graph stays one that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[[np.ndarray], np.ndarray]


class Graph:
    """A classifier's graph, whose weights read as floats whether they are stored in 8 bits or not."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes = self.model.graph.node
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def change(self, name: str, change: Change) -> None:
        """Put what ``change`` makes of an array in its place."""
        self._put(name, change(self._array(name).copy()))

    def change_weight(self, layer: str, change: Change) -> None:
        """The same for the (in, out) weight of a linear layer; 8 bits keep the scale of each of its outputs."""
        product = self._reader(layer)
        source = next((node for node in self.nodes if node.output[0] == product.input[1]), None)
        if source is None:
            self.change(product.input[1], change)
            return
        name, scale, zero = (self._array(found) for found in source.input)
        changed = change((name.astype(np.float32) - zero) * scale)
        limits = np.iinfo(name.dtype)
        self._put(source.input[0], np.clip(np.rint(changed / scale) + zero, limits.min, limits.max).astype(name.dtype))

    def layers(self) -> list[str]:
        """The linear layers of the blocks."""
        names = [name.removesuffix(".bias").removeprefix("classifier.") for name in self._stored]
        return [
            name
            for name in names
            if f"classifier.{name}.bias" in self._stored and "blocks_" in name and "norm" not in name
        ]

    def after(self, layer: str) -> onnx.NodeProto:
        """The residual that a layer's result is added to."""
        [added] = [node for node in self.nodes if f"classifier.{layer}.bias" in node.input]
        [residual] = [node for node in self.nodes if added.output[0] in node.input]
        return residual

    def replace_input(self, name: str, operator: str, *constants: np.ndarray) -> None:
        """Let an operator's result take the place of an input of the graph."""
        names = [f"{name}.constant{number}" for number in range(len(constants))]
        for constant, array in zip(names, constants, strict=True):
            self.model.graph.initializer.append(numpy_helper.from_array(array, constant))
        for node in self.nodes:
            node.input[:] = [f"{name}.replaced" if found == name else found for found in node.input]
        self.nodes.insert(0, helper.make_node(operator, [name, *names], [f"{name}.replaced"]))

    def _reader(self, layer: str) -> onnx.NodeProto:
        [added] = [node for node in self.nodes if f"classifier.{layer}.bias" in node.input]
        [product] = [node for node in self.nodes if node.output[0] in added.input]
        return product

    def _array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._stored[name])

    def _put(self, name: str, array: np.ndarray) -> None:
        self._stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def _row_zeroed(graph: Graph) -> None:
    def zero(weight: np.ndarray) -> np.ndarray:
        weight[3] = 0
        return weight

    graph.change("classifier.mlp_head.1.weight", zero)


def _pictures_of_other_clips(graph: Graph) -> None:
    graph.replace_input("image", "Slice", *(np.array([value]) for value in (-1, -(2**31), 0, -1)))


def _bias_shifted(graph: Graph) -> None:
    graph.change("classifier.mlp_head.1.bias", lambda bias: bias + np.eye(len(bias), dtype=np.float32)[5])


def _layer_scaled(graph: Graph) -> None:
    graph.change("classifier.mlp_head.1.weight", lambda weight: weight * np.float32(1.25))


def _heads_swapped(graph: Graph) -> None:
    """The queries of two heads, of two."""

    def swap(weight: np.ndarray) -> np.ndarray:
        width = weight.shape[0]
        weight[:, :width] = np.roll(weight[:, :width], width // 2, axis=1)
        return weight

    graph.change_weight("blocks_u.0.attn.qkv", swap)


def _residual_dropped(graph: Graph) -> None:
    node = graph.after("blocks_u.0.mlp.fc2")
    node.op_type, node.input[:] = "Identity", node.input[1:]


def _branch_dropped(graph: Graph) -> None:
    node = graph.after("blocks_a.1.mlp.fc2")
    node.op_type, node.input[:] = "Identity", node.input[:1]


def _channels_swapped(graph: Graph) -> None:
    graph.change("classifier.patch_embed_v.embed.proj.weight", lambda weight: weight[:, ::-1])


def _four_bits(graph: Graph) -> None:
    def rounded(weight: np.ndarray) -> np.ndarray:
        scale = np.abs(weight).max(axis=0) / 7
        return np.rint(weight / scale) * scale

    for layer in graph.layers():
        graph.change_weight(layer, rounded)


def _picture_ignored(graph: Graph) -> None:
    graph.replace_input("image", "Mul", np.float32(0))


def _sound_ignored(graph: Graph) -> None:
    graph.replace_input("audio", "Mul", np.float32(0))


def _positions_reversed(graph: Graph) -> None:
    graph.change("classifier.pos_embed_a", lambda positions: positions[:, ::-1])


GRAPH: dict[str, Callable[[Graph], None]] = {
    "a row of the head zeroed": _row_zeroed,
    "the pictures of two clips swapped": _pictures_of_other_clips,
    "a class's bias shifted": _bias_shifted,
    "a layer's weights scaled": _layer_scaled,
    "heads swapped": _heads_swapped,
    "a residual dropped": _residual_dropped,
    "a layer dropped": _branch_dropped,
    "blue for red": _channels_swapped,
    "weights in 4 bits": _four_bits,
    "the picture ignored": _picture_ignored,
    "the sound ignored": _sound_ignored,
    "positions reversed": _positions_reversed,
}
"""Edits of the graph."""


def _labels_swapped(manifest: dict[str, Any]) -> None:
    first, second, *others = manifest["labels"]
    manifest["labels"] = (second, first, *others)


MANIFEST: dict[str, Callable[[dict[str, Any]], None]] = {
    "labels swapped": _labels_swapped,
    # The means of AudioSet where those of VGGSound belong.
    "another norm of the sound": lambda manifest: manifest["preprocessing"].update(fbank_mean=-4.268, fbank_std=4.569),
    "another norm of the picture": lambda manifest: manifest["preprocessing"].update(
        image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    ),
}
"""Edits of the manifest."""
