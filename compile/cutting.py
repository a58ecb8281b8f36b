"""Cut a graph into an encoder per modality and what joins them.

The border is found in the graph itself: a node that reads one modality only belongs to its encoder, and a node that
reads both belongs to the joint part. So a graph is cut in the same way whatever was lowered, quantised or merged in it,
and the parts compute exactly what the whole does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcmae.compile.weights import WeightsFile, data_file, detached
from kdcmae.errors import EngineError
from kdcmae.runtime.manifest import BATCH_AXIS, TensorSpec

__all__ = ["JOINT", "Border", "GraphPart", "cut_onnx", "find_border", "handed_spec"]

JOINT = "joint"

Node = tuple[Sequence[str], Sequence[str]]
"""Names of the values that a node reads, and of those that it gives."""


@dataclass(frozen=True, kw_only=True)
class GraphPart:
    """One part of a graph.

    Args:
        name: modality of an encoder, or ``joint``.
        graph: its file.
        inputs, outputs: their names.
        handed: what encoders hand to the joint part: of an encoder its own, of the joint part none.
    """

    name: str
    graph: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    handed: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Border:
    """Where a graph is cut.

    Args:
        groups: inputs of the graph by encoder.
        handed: values that an encoder gives and the joint part reads, by encoder.
        outputs: outputs of the graph by part; the joint part is there only if some node reads several modalities.
        joint: values of nodes that read several modalities.
    """

    groups: Mapping[str, tuple[str, ...]]
    handed: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    joint: frozenset[str]

    def tensor_names(self) -> dict[str, str]:
        """Names of the handed values as tensors between engine files, such as ``audio_tokens``, by value."""
        return {
            value: f"{part}_tokens" + (f"_{number}" if number > 1 else "")
            for part, values in self.handed.items()
            for number, value in enumerate(values, start=1)
        }


def find_border(nodes: Iterable[Node], groups: Mapping[str, tuple[str, ...]], outputs: Sequence[str]) -> Border:
    """Find where a graph falls into parts.

    Args:
        nodes: of the graph, each after those that it reads from.
        groups: inputs of the graph by encoder.
        outputs: of the graph.

    Raises:
        EngineError: an encoder would give nothing.
    """
    read = {name: frozenset([part]) for part, names in groups.items() for name in names}
    handed: dict[str, list[str]] = {part: [] for part in groups}
    for inputs, given in nodes:
        sources = [(name, read.get(name, frozenset())) for name in inputs]
        union = frozenset[str]().union(*(parts for _, parts in sources))
        if len(union) > 1:
            for name, parts in sources:
                for part in parts if len(parts) == 1 else ():
                    if name not in handed[part]:
                        handed[part].append(name)
        if union:
            read.update((name, union) for name in given if name)
    owners = {name: next(iter(read[name])) if len(read.get(name, ())) == 1 else JOINT for name in outputs}
    names = (*groups, JOINT) if any(handed.values()) else tuple(groups)
    by_part = {part: tuple(name for name in outputs if owners[name] == part) for part in names}
    for part in groups:
        if not handed[part] and not by_part[part]:
            raise EngineError(f"--split: the graph has nothing that reads {part} only; build it without --split")
    return Border(
        groups=groups,
        handed={part: tuple(values) for part, values in handed.items()},
        outputs=by_part,
        joint=frozenset(name for name, of in read.items() if len(of) > 1),
    )


def handed_spec(name: str, shape: Sequence[int | None]) -> TensorSpec:
    """A tensor between two parts, always float32: numpy has no bfloat16, and widening it is exact.

    Args:
        name: of the tensor.
        shape: sizes, the batch first; None for a free one.

    Raises:
        EngineError: an axis besides the batch is free.
    """
    sizes = shape[1:]
    if not all(sizes):
        raise EngineError(f"--split: {name} has no fixed shape but {tuple(shape)}; build the engine without --split")
    described = "what an encoder hands to the joint blocks"
    return TensorSpec(name=name, shape=(BATCH_AXIS, *map(int, sizes)), dtype="float32", description=described)  # type: ignore[arg-type]


def cut_onnx(graph: Path, folder: Path, groups: Mapping[str, tuple[str, ...]]) -> list[GraphPart]:
    """Cut an ONNX file; the weights of each part go to a file beside it.

    Args:
        graph: the file, its weights beside it.
        folder: gets a file per part, ``<part>.onnx``.
        groups: inputs of the graph by encoder.

    Raises:
        EngineError: the graph cannot be cut.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    outputs = [output.name for output in model.graph.output]
    border = find_border(((node.input, node.output) for node in model.graph.node), groups, outputs)
    names = border.tensor_names()
    types = _types(model, set(names))
    specs = {value: handed_spec(name, _sizes(types[value])) for value, name in names.items()}
    parts = []
    for part, own in border.outputs.items():
        inputs, handed = groups.get(part, ()), border.handed.get(part, ())
        taken = [] if part in groups else list(names)
        piece = _piece(model, inputs, [*handed, *own], taken)
        _hand_on(piece, [specs[value] for value in taken or handed], taken or handed, types, given=part in groups)
        path = folder / f"{part}.onnx"
        _save(piece, path, graph.parent)
        parts.append(
            GraphPart(
                name=part,
                graph=path,
                inputs=(*inputs, *(names[value] for value in taken)),
                outputs=(*(names[value] for value in handed), *own),
                handed=tuple(specs[value] for value in handed),
            )
        )
    return parts


def _types(model: Any, values: set[str]) -> dict[str, Any]:
    """Element types and shapes of values; inferred where the file does not say."""
    import onnx

    known = {info.name: info.type.tensor_type for info in model.graph.value_info if info.name in values}
    if known.keys() != values:
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        known = {info.name: info.type.tensor_type for info in inferred if info.name in values}
    if missing := values - known.keys():
        raise EngineError(f"--split: the type of {', '.join(sorted(missing))} is unknown; build without --split")
    return known


def _sizes(tensor_type: Any) -> list[int | None]:
    return [axis.dim_value or None for axis in tensor_type.shape.dim]


def _piece(model: Any, inputs: Sequence[str], ends: Sequence[str], taken: Sequence[str]) -> Any:
    """A copy of the model with only the nodes that lead to ``ends``, without what leads to ``taken``."""
    import onnx

    needed, nodes = set(ends), []
    for node in reversed(model.graph.node):
        if (needed & set(node.output)) - set(taken):
            nodes.append(node)
            needed |= set(node.input)
    piece = onnx.ModelProto()
    piece.CopyFrom(model)
    graph = piece.graph
    kept = {name for node in nodes for name in node.output}
    for field, wanted in (("input", inputs), ("output", ends), ("value_info", kept), ("initializer", needed)):
        entries = [entry for entry in getattr(model.graph, field) if entry.name in wanted]
        graph.ClearField(field)
        getattr(graph, field).extend(entries)
    graph.ClearField("node")
    graph.node.extend(reversed(nodes))
    return piece


def _hand_on(
    piece: Any, specs: Sequence[TensorSpec], values: Sequence[str], types: Mapping[str, Any], *, given: bool
) -> None:
    """Give a part its tensors to the next part, or from the one before, as float32."""
    from onnx import TensorProto, helper

    casts, infos = [], []
    for spec, value in zip(specs, values, strict=True):
        source, end = (value, spec.name) if given else (spec.name, value)
        kind = TensorProto.FLOAT if given else types[value].elem_type
        casts.append(helper.make_node("Cast", [source], [end], name=f"{spec.name}.cast", to=kind))
        sizes = [size or BATCH_AXIS for size in _sizes(types[value])]
        infos.append(helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, sizes))
    nodes, tensors = list(piece.graph.node), piece.graph.output if given else piece.graph.input
    own = list(tensors)
    del piece.graph.node[:], tensors[:]
    piece.graph.node.extend([*nodes, *casts] if given else [*casts, *nodes])
    tensors.extend([*infos, *own])


def _save(piece: Any, path: Path, folder: Path) -> None:
    import onnx

    with WeightsFile(data_file(path)) as file:
        for tensor in piece.graph.initializer:
            moved = detached(tensor, folder)
            file.move(moved)
            tensor.CopyFrom(moved)
    onnx.save_model(piece, path)
