"""Write a lowered classifier as ONNX, the graph that every target builds from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import ExportedProgram

from kdcmae.compile.models import EngineModel
from kdcmae.errors import EngineError, MissingDependencyError
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange

__all__ = ["OPSET", "export_onnx", "export_program", "require_exporter", "widened"]

OPSET = 20  # the first with Gelu; LayerNormalization is in since 17


def require_exporter() -> None:
    """Fail early, with the install line, where the ONNX exporter is not installed.

    Raises:
        MissingDependencyError: onnx or onnxscript is missing.
    """
    for library in ("onnx", "onnxscript"):
        try:
            __import__(library)
        except ImportError as error:
            raise MissingDependencyError(library, install="kdcmae[onnx]") from error


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
    axes = {0: torch.export.Dim("batch", min=1, max=batch.max)} if dynamic else None
    shapes = dict.fromkeys(arrays, axes)
    try:
        with torch.no_grad():
            return torch.export.export(module, (), kwargs, dynamic_shapes=shapes)
    except TorchDynamoException as error:
        raise EngineError(f"the model cannot be exported: {str(error).splitlines()[0]}") from error


def export_onnx(model: EngineModel, program: ExportedProgram, path: Path) -> None:
    """Write a program as one ONNX file with named inputs and outputs.

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
                external_data=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise EngineError(f"the ONNX export failed: {str(error).splitlines()[0]}") from error
    assert exported is not None
    exported.save(path, external_data=False)


def widened(path: Path, target: Path) -> None:
    """Write a copy of a bfloat16 graph with every bfloat16 type widened to float32.

    ONNX Runtime's CPU provider has no bfloat16 kernels; the copy has the same structure and the same (rounded)
    weights, so it still proves the export.

    Args:
        path: a bfloat16 ONNX file.
        target: the file to write.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.BFLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, target)


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
