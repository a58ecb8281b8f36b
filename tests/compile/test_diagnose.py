from __future__ import annotations

import json
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdcmae.compile import export
from kdcmae.compile.diagnose import compare_layers, diagnose, layer_values, onnx_values, openvino_values
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import classifier_model, examples
from kdcmae.compile.settings import GATES, CompileSettings
from kdcmae.runtime.manifest import BatchRange

ONE = BatchRange(1, 1, 1)


@pytest.fixture(scope="module")
def model(smallest):
    return classifier_model(smallest, name="smallest", source="a test", random_weights=True)


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "graph.onnx"
    export.export_onnx(model, export.export_program(model, lower(model.module, "fp32"), ONE), path)
    return path


def with_scaled_weight(graph, layer, path):
    """A copy of the graph in which one layer's first constant input is scaled."""
    broken = onnx.load(graph)
    constants = {tensor.name: tensor for tensor in broken.graph.initializer}
    value = layer_values(graph)[layer]
    producers = {name: node for node in broken.graph.node for name in node.output}
    queue = [producers[value]]
    while True:
        node = queue.pop(0)
        weights = [constants[name] for name in node.input if name in constants and len(constants[name].dims) > 1]
        if weights:
            scaled = numpy_helper.to_array(weights[0]) * np.float32(1.5)
            weights[0].CopyFrom(numpy_helper.from_array(scaled, weights[0].name))
            onnx.save(broken, path)
            return
        queue += [producers[name] for name in node.input if name in producers]


@pytest.mark.parametrize("runner", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "layer", ["classifier.blocks_v.0.mlp.fc2", "classifier.blocks_u.0.attn.qkv", "classifier.patch_embed_a"]
)
def test_a_planted_bug_is_found_in_its_layer(layer, runner, model, graph, tmp_path):
    broken = tmp_path / "broken.onnx"
    with_scaled_weight(graph, layer, broken)
    values = onnx_values(broken) if runner == "onnx" else openvino_values(broken, {"INFERENCE_PRECISION_HINT": "f32"})
    stage = compare_layers(model, layer_values(graph), values, examples(model, 1), GATES["fp32"], stage=runner)
    assert stage.first is not None
    assert stage.first.name == layer
    assert all(one.passed for one in stage.layers[: stage.layers.index(stage.first)])


def test_an_honest_export_has_no_such_layer(model, graph):
    inputs = examples(model, 1)
    stage = compare_layers(model, layer_values(graph), onnx_values(graph), inputs, GATES["fp32"], stage="onnx")
    assert stage.first is None
    names = [layer.name for layer in stage.layers]
    assert names.index("classifier.blocks_a.0") < names.index("classifier.blocks_u.0") < names.index("classifier.norm")
    assert len(names) >= 8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_stage_is_compared(precision, model, tmp_path, native):
    settings = CompileSettings(target="openvino", precision=precision, batch=ONE, execute_as=native[precision])
    stages = diagnose(model, settings, tmp_path, engine={}, step=lambda name: nullcontext())
    assert [stage.name for stage in stages] == ["lowered", "onnx", "openvino"]
    assert all(stage.first is None for stage in stages)


def test_precision_that_is_not_enough_is_found_in_the_lowered_model(run, checkpoint):
    result = run("diagnose", "--checkpoint", checkpoint, "--target", "onnx", "--precision", "bf16",
                 "--max-error", "1e-5", "--json")  # fmt: skip
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["lowered"]
    assert found["first"].startswith("classifier.patch_embed")
    assert f"first layer out of tolerance is {found['first']}" in result.stderr


def test_an_engine_says_how_it_was_built(run, checkpoint, engine):
    result = run("diagnose", engine, "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.stderr
    assert "classifier.blocks_u.0" in result.stdout
    assert "out" not in result.stdout.split()


def test_wrong_use(run, engine, checkpoint):
    result = run("diagnose", "--checkpoint", checkpoint)
    assert (result.exit_code, "give an ENGINE folder, or --target" in result.stderr) == (2, True)
    result = run("diagnose", engine, "--checkpoint", checkpoint, "--precision", "fp32")
    assert (result.exit_code, "leave --target and --precision out" in result.stderr) == (2, True)
