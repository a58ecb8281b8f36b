"""Cut what OpenVINO reads, an ONNX file or an IR, into an IR per part."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcmae.compile.cutting import GraphPart, find_border, handed_spec
from kdcmae.runtime.manifest import TensorSpec
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

__all__ = ["cut_model"]


def cut_model(graph: Path, folder: Path, groups: Mapping[str, tuple[str, ...]]) -> list[GraphPart]:
    """Cut a graph; see :func:`kdcmae.compile.cutting.cut_onnx`.

    Args:
        graph: an ONNX file or an IR.
        folder: gets an IR per part.
        groups: inputs of the graph by encoder.

    Raises:
        EngineError: the graph cannot be cut.
    """
    ov = import_openvino()
    model = openvino_core().read_model(graph)
    ports: dict[str, Any] = {}
    called: dict[str, str] = {}  # inputs and outputs of the model: the value of the graph, by name
    nodes = []
    for op in model.get_ordered_ops():
        given = [_value(port) for port in op.outputs()]
        ports.update(zip(given, op.outputs(), strict=True))
        nodes.append(([_value(port.get_source_output()) for port in op.inputs()], given))
    for port in (*model.inputs, *model.outputs):
        source = port if port.get_node().get_type_name() == "Parameter" else port.get_node().input_value(0)
        called.update((name, _value(source)) for name in port.get_names())
    results = {_value(port.get_node().input_value(0)): port.get_node() for port in model.outputs}
    by_value = {part: tuple(called[name] for name in names) for part, names in groups.items()}
    border = find_border(nodes, by_value, list(results))
    names = {value: name for name, value in called.items()} | border.tensor_names()
    specs = {value: handed_spec(name, _sizes(ports[value])) for value, name in border.tensor_names().items()}
    parts = []
    for part, own in border.outputs.items():
        handed = border.handed.get(part, ())
        if part in groups:
            starts = [ports[value].get_node() for value in by_value[part]]
            ends = [_result(ports[value], specs[value]) for value in handed]
        else:
            starts = [_parameter(ports[value], specs[value], border.joint) for value in specs]
            ends = []
        path = folder / f"{part}.xml"
        piece = ov.Model([*ends, *(results[value] for value in own)], starts, part)
        ov.save_model(piece, path, compress_to_fp16=False)
        parts.append(
            GraphPart(
                name=part,
                graph=path,
                inputs=groups.get(part, tuple(spec.name for spec in specs.values())),
                outputs=(*(specs[value].name for value in handed), *(names[value] for value in own)),
                handed=tuple(specs[value] for value in handed),
            )
        )
    return parts


def _value(port: Any) -> str:
    """A name of an output of a node that is unique in its model."""
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _sizes(port: Any) -> list[int | None]:
    return [axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()]


def _result(port: Any, spec: TensorSpec) -> Any:
    """An output of an encoder."""
    opset = importlib.import_module("openvino.opset13")
    end = port if port.get_element_type().to_string() == "f32" else opset.convert(port, "f32").output(0)
    end.get_tensor().add_names({spec.name})
    return opset.result(end)


def _parameter(port: Any, spec: TensorSpec, joint: frozenset[str]) -> Any:
    """An input of the joint part, which reads it in the place of an encoder's output."""
    opset = importlib.import_module("openvino.opset13")
    kind = port.get_element_type().to_string()
    parameter = opset.parameter(port.get_partial_shape(), import_openvino().Type.f32, spec.name)
    parameter.output(0).get_tensor().set_names({spec.name})
    given = parameter if kind == "f32" else opset.convert(parameter, kind)
    for reader in port.get_target_inputs():
        if joint.intersection(map(_value, reader.get_node().outputs())):
            reader.replace_source_output(given.output(0))
    return parameter
