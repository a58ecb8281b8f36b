"""Trace a lowered model, and write it as ONNX."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import ExportedProgram

from kdcmae.compile.models import EngineModel
from kdcmae.compile.weights import WeightsFile, data_file, detached
from kdcmae.errors import EngineError, cause
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BATCH_AXIS, BatchRange
from kdcmae.runtime.schema import FREE_AXES

__all__ = ["OPSET", "SCOPES", "deliver", "export_onnx", "export_program", "remove", "widened"]

SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's key for the modules that a node belongs to

OPSET = 20  # the first with Gelu; LayerNormalization is in since 17

# Of weights within an ONNX file: who reads or writes it needs memory for several copies of it, and a protobuf message
# holds 2 GiB at most. Weights in a file beside it are mapped.
LARGEST_FILE_BYTES = 256_000_000


def export_program(model: EngineModel, module: nn.Module, batch: BatchRange) -> ExportedProgram:
    """Trace the lowered module once; every target builds from this program.

    Args:
        model: whose inputs the module takes.
        module: the model's module, lowered.
        batch: a range exports a dynamic batch axis; a single size is baked in.

    Raises:
        EngineError: the module cannot be traced.
    """
    dynamic = batch.min != batch.max
    # torch.export takes an axis of size 1 for a constant, so a dynamic batch is traced with 2.
    arrays = example_inputs(model.inputs, 2 if dynamic else batch.opt)
    kwargs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    axes = {name: torch.export.Dim(name, min=sizes[0], max=sizes[-1]) for name, sizes in FREE_AXES.items()}
    if dynamic:
        axes[BATCH_AXIS] = torch.export.Dim(BATCH_AXIS, min=1, max=batch.max)
    shapes = {spec.name: {i: axes[axis] for i, axis in enumerate(spec.shape) if axis in axes} for spec in model.inputs}
    try:
        with torch.no_grad():
            return torch.export.export(module, (), kwargs, dynamic_shapes=shapes)
    except TorchDynamoException as error:
        raise EngineError(f"the model cannot be exported: {cause(error)}") from error


def export_onnx(model: EngineModel, program: ExportedProgram, path: Path) -> None:
    """Write a program as an ONNX file with named inputs and outputs, its weights in ``<name>.data`` beside it.

    Weights in a file of their own have no 2 GiB limit, and readers map them instead of copying them.

    Args:
        model: names the inputs and outputs.
        program: what :func:`export_program` gave.
        path: the file to write.

    Raises:
        EngineError: the exporter failed.
    """
    with torch.inference_mode(), _quiet_exporter():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[spec.name for spec in model.inputs],
                output_names=[spec.name for spec in model.outputs],
                opset_version=OPSET,
                verbose=False,
                external_data=True,
                optimize=False,
            )
            assert exported is not None
            # Optimising drops weights from the graph that it folds into others, and the exporter's caches keep them.
            weights = list(exported.model.graph.initializers.values())
            for _ in range(2):  # the first time merges the transposes of a weight that is used twice, the second folds
                exported.optimize()
                weights += exported.model.graph.initializers.values()
        except torch.onnx.errors.OnnxExporterError as error:
            raise EngineError(f"the ONNX export failed: {cause(error)}") from error
    for node in exported.model.graph:
        # The exporter notes this machine's file names: they are private, and differ from machine to machine.
        scopes = node.metadata_props.get(SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[SCOPES] = scopes
    exported.save(path, external_data=True)
    # The same caches keep the graph alive; the weights must not stay with it.
    exported.exported_program = None
    for value in weights:
        value.const_value = None


def deliver(graph: Path, target: Path) -> None:
    """Copy an ONNX file under another name: as one file where it is small, with ``<name>.data`` otherwise.

    Args:
        graph: what :func:`export_onnx` wrote.
        target: the file to write.
    """
    import onnx

    weights = data_file(graph)
    if weights.stat().st_size <= LARGEST_FILE_BYTES:
        onnx.save_model(onnx.load(graph), target)
        return
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data_file(target).name
    shutil.copyfile(weights, data_file(target))
    onnx.save_model(model, target)


def remove(graph: Path) -> None:
    """Delete an ONNX file and its weights."""
    graph.unlink()
    data_file(graph).unlink(missing_ok=True)


def widened(path: Path, target: Path) -> None:
    """Write a copy of a bfloat16 graph with every bfloat16 type widened to float32.

    ONNX Runtime's CPU provider has no bfloat16 kernels; the copy has the same structure and the same (rounded)
    weights, so it still proves the export.

    Args:
        path: a bfloat16 ONNX file.
        target: the file to write; its weights go beside it, one at a time.
    """
    import onnx
    from onnx import TensorProto

    model = onnx.load(path, load_external_data=False)
    with WeightsFile(data_file(target)) as file:
        for tensor in model.graph.initializer:
            wide = _widened(detached(tensor, path.parent))
            file.move(wide)
            tensor.CopyFrom(wide)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t"):
                attribute.t.CopyFrom(_widened(attribute.t))
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save_model(model, target)


def _widened(tensor: Any) -> Any:
    """The tensor, as float32 where it is bfloat16."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.BFLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own chatter (about torchvision, about its internals) off the terminal."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
