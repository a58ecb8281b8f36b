"""Write a lowered classifier as ONNX, the graph that every target builds from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdcmae.compile.lowering import LoweredClassifier
from kdcmae.config import ClassifierConfig
from kdcmae.errors import EngineError, MissingDependencyError
from kdcmae.runtime.manifest import BatchRange, TensorSpec

__all__ = ["OPSET", "example_inputs", "export_onnx", "input_specs", "output_specs", "require_exporter", "widened"]

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


def input_specs(config: ClassifierConfig) -> tuple[TensorSpec, ...]:
    """The inputs of an engine for this model, in order."""
    audio = TensorSpec(
        name="audio",
        shape=("batch", config.audio_length, config.mel_bins),
        dtype="float32",
        description="log-mel filterbank (frames of 10 ms, mel bands), normalised with the manifest's mean and std",
    )
    image = TensorSpec(
        name="image",
        shape=("batch", 3, config.image_size, config.image_size),
        dtype="float32",
        description="RGB frame (channels, rows, columns), normalised with the manifest's mean and std",
    )
    return {"audiovisual": (audio, image), "audio": (audio,), "video": (image,)}[config.modality]


def output_specs(config: ClassifierConfig) -> tuple[TensorSpec, ...]:
    """The outputs of an engine for this model."""
    return (
        TensorSpec(
            name="logits",
            shape=("batch", config.num_classes),
            dtype="float32",
            description="one logit per line of labels.txt",
        ),
    )


def example_inputs(config: ClassifierConfig, batch: int, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Seeded standard-normal inputs, the distribution that normalised inputs have.

    Args:
        config: sizes and modality.
        batch: samples.
        seed: of numpy's default generator.
    """
    generator = np.random.default_rng(seed)
    return {
        spec.name: generator.standard_normal((batch, *spec.shape[1:]), dtype=np.float32)  # type: ignore[arg-type]
        for spec in input_specs(config)
    }


def export_onnx(module: LoweredClassifier, config: ClassifierConfig, batch: BatchRange, path: Path) -> None:
    """Export to one ONNX file with named inputs and outputs.

    Args:
        module: the lowered classifier.
        config: of the classifier.
        batch: a range exports a dynamic batch axis; a single size is baked in.
        path: the file to write.

    Raises:
        EngineError: the exporter failed.
    """
    dynamic = batch.min != batch.max
    # torch.export takes an axis of size 1 for a constant, so a dynamic batch is traced with 2.
    arrays = example_inputs(config, 2 if dynamic else batch.opt)
    with torch.inference_mode(), _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                (),
                kwargs={name: torch.from_numpy(array) for name, array in arrays.items()},
                dynamo=True,
                input_names=list(arrays),
                output_names=[spec.name for spec in output_specs(config)],
                dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC} for name in arrays} if dynamic else None,
                opset_version=OPSET,
                verbose=False,
                external_data=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise EngineError(f"the ONNX export failed: {str(error).splitlines()[0]}") from error
    assert program is not None
    program.save(path, external_data=False)


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
