from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.compile import export
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import EngineModel, classifier_model
from kdcmae.compile.parity import TOLERANCE, relative_error
from kdcmae.compile.sessions import open_session
from kdcmae.runtime import load_engine
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange, Manifest


def build(modality: str = "audiovisual") -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset(
        "tiny", num_classes=5, modality=modality, specific_depth=1, audio_length=128, image_size=64
    ).eval()


def write_onnx(classifier: KDCMAEClassifier, precision: str, batch: BatchRange, path: Path) -> EngineModel:
    model = classifier_model(classifier, name="tiny", source="a test", random_weights=True)
    export.export_onnx(model, export.export_program(model, lower(model.module, precision), batch), path)
    return model


def reference(classifier: KDCMAEClassifier, inputs: dict) -> np.ndarray:
    with torch.inference_mode():
        return classifier(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A dynamic-batch export per precision."""
    folder = tmp_path_factory.mktemp("graphs")
    classifier = build()
    for precision in ("fp32", "fp16", "bf16"):
        model = write_onnx(classifier, precision, BatchRange(1, 2, 4), folder / f"{precision}.onnx")
    return classifier, model.inputs, folder


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_dynamic_graph_serves_every_batch(precision, batch, graphs):
    classifier, specs, folder = graphs
    inputs = example_inputs(specs, batch)
    logits = open_session(folder / f"{precision}.onnx")(inputs)["logits"]
    assert relative_error(logits, reference(classifier, inputs)) < TOLERANCE[precision]


def test_a_widened_bfloat16_graph_runs_and_agrees(graphs, tmp_path):
    classifier, specs, folder = graphs
    export.widened(folder / "bf16.onnx", tmp_path / "wide.onnx")
    inputs = example_inputs(specs, 2)
    logits = open_session(tmp_path / "wide.onnx")(inputs)["logits"]
    assert relative_error(logits, reference(classifier, inputs)) < TOLERANCE["bf16"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_norms_and_softmax_stay_float32(precision, graphs):
    *_, folder = graphs
    graph = onnx.load(folder / f"{precision}.onnx").graph
    declared = (*graph.value_info, *graph.output, *graph.input)
    types = {info.name: info.type.tensor_type.elem_type for info in declared}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = defaultdict(set)
    for node in graph.node:
        found[node.op_type] |= {types[node.input[0]], types[node.output[0]]}
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert found["LayerNormalization"] == {onnx.TensorProto.FLOAT}
    assert found["Softmax"] == {onnx.TensorProto.FLOAT}
    assert found["ReduceMean"] == {onnx.TensorProto.FLOAT}
    assert found["MatMul"] == {half}
    assert found["Gelu"] == {half}


@pytest.mark.parametrize(("modality", "names"), [("audio", {"audio"}), ("video", {"image"})])
def test_single_modality_models_take_one_input(modality, names, tmp_path):
    classifier = build(modality)
    path = tmp_path / "graph.onnx"
    model = write_onnx(classifier, "fp32", BatchRange(1, 1, 1), path)
    assert {value.name for value in onnx.load(path).graph.input} == names
    inputs = example_inputs(model.inputs, 1)
    assert relative_error(open_session(path)(inputs)["logits"], reference(classifier, inputs)) < 1e-5


def test_a_static_graph_has_its_batch_baked_in(tmp_path):
    classifier = build("video")
    path = tmp_path / "graph.onnx"
    write_onnx(classifier, "fp32", BatchRange(3, 3, 3), path)
    (image,) = onnx.load(path).graph.input
    assert [axis.dim_value for axis in image.type.tensor_type.shape.dim] == [3, 3, 64, 64]


def test_weights_too_large_for_one_file_go_beside_it(checkpoint, run, tmp_path, small_files):
    folder = tmp_path / "engine"
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--output", folder)
    assert result.exit_code == 0, result.stderr
    assert (folder / "model.onnx").stat().st_size < (folder / "model.onnx.data").stat().st_size
    assert {"model.onnx", "model.onnx.data"} <= Manifest.read(folder).files.keys()
    with load_engine(folder) as engine:
        assert engine.self_test().passed


def test_an_exported_graph_names_modules_and_no_files(graphs):
    *_, folder = graphs
    written = (folder / "fp32.onnx").read_bytes()
    assert b"blocks_u.0.mlp.fc1" in written
    assert b".py" not in written


def test_an_export_keeps_no_weights(tmp_path):
    """The exporter's caches outlive the program, and a build goes on with the file alone."""
    classifier = build()
    model = classifier_model(classifier, name="tiny", source="a test", random_weights=True)
    module = lower(model.module, "fp16")
    program = export.export_program(model, module, BatchRange(1, 1, 1))
    # Storages of small tensors are shared with constants that are worth nothing.
    weights = [weakref.ref(tensor) for tensor in program.state_dict.values() if tensor.numel() > 10_000]
    assert len(weights) > 10
    export.export_onnx(model, program, tmp_path / "graph.onnx")
    del module, program
    gc.collect()
    assert sum(weight() is not None for weight in weights) == 0
