from __future__ import annotations

import copy
import json
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from kdcmae.compile import export
from kdcmae.compile.cli import build
from kdcmae.compile.cli import diagnose as cli
from kdcmae.compile.diagnose import diagnose
from kdcmae.compile.layer_errors import compare_layers
from kdcmae.compile.layers import graph_values, onnx_values, output_names
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import classifier_model, examples
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import LayerRequest, aoti, openvino
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.precisions import GATES

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
    value = output_names(graph)[layer]
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
    read = onnx_values(broken) if runner == "onnx" else openvino.graph_values(broken, "fp32")
    values = graph_values(read, output_names(graph))
    stage = compare_layers(model, values, examples(model, 1), GATES["fp32"], stage=runner)
    assert stage.first is not None
    assert stage.first.name == layer
    assert all(one.passed for one in stage.layers[: stage.layers.index(stage.first)])


def test_a_bug_in_compiled_code_is_found_in_its_layer(model, graph, tmp_path):
    broken, layer = copy.deepcopy(lower(model.module, "fp32")), "classifier.blocks_v.0"
    with torch.no_grad():
        broken.get_submodule(f"{layer}.mlp.fc2").weight *= 1.5
    settings = CompileSettings(target="aoti", precision="fp32", batch=ONE)
    request = LayerRequest(
        model=model, lowered=broken, graph=graph, outputs={}, engine=None, settings=settings, folder=tmp_path
    )
    among = ("classifier.patch_embed_v", layer)
    values = aoti.compiled_values(request)
    stage = compare_layers(model, values, examples(model, 1), GATES["fp32"], stage="aoti", among=among)
    assert stage.first is not None
    assert stage.first.name == layer
    assert [one.passed for one in stage.layers] == [True, False]
    assert not any(child._forward_hooks for child in broken.modules())  # it is as it was


def test_an_honest_export_has_no_such_layer(model, graph):
    inputs = examples(model, 1)
    values = graph_values(onnx_values(graph), output_names(graph))
    stage = compare_layers(model, values, inputs, GATES["fp32"], stage="onnx")
    assert stage.first is None
    names = [layer.name for layer in stage.layers]
    assert names.index("classifier.blocks_a.0") < names.index("classifier.blocks_u.0") < names.index("classifier.norm")
    assert len(names) >= 8


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_stage_is_compared(precision, model, tmp_path, native):
    settings = CompileSettings(target="openvino", precision=precision, batch=ONE, execute_as=native[precision])
    stages = diagnose(model, settings, tmp_path, engine={}, step=lambda name: nullcontext())
    assert [diagnosis.stage for diagnosis in stages] == ["lowered", "onnx", "openvino"]
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
    assert (result.exit_code, "Missing option '--target'" in result.stderr) == (2, True)
    result = run("diagnose", engine, "--checkpoint", checkpoint, "--precision", "fp32", "--batch", "2")
    assert (result.exit_code, "--precision and --batch cannot act: an ENGINE says" in result.stderr) == (2, True)


def test_the_model_itself_is_compared_with_the_users_code_first(run, checkpoint, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def outputs(audio, image):\n    return audio.mean((1, 2))[:, None].repeat(1, 3)\n"
    )
    options = ("--expect-from", f"{tmp_path / 'mine.py'}:outputs")
    result = run("diagnose", "--target", "openvino", "--precision", "fp32", "--checkpoint", checkpoint, *options)
    assert result.exit_code == 1
    assert "the loaded model does not compute what mine.py:outputs says" in result.stderr


def test_it_takes_every_option_that_a_build_takes():
    # Looking for a budget builds other engines, and variants of the graph are looked for by a build alone.
    taken = {option.name for option in build.command.params} - {"budget_ms", "tune"}
    assert taken <= {option.name for option in cli.command.params}


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_int8_is_compared_layer_by_layer(target, run, checkpoint, tmp_path):
    arguments = ("diagnose", "--checkpoint", checkpoint, "--target", target, "--precision", "int8", "--calibration",
                 "avsynth:4", "--batch", "1:2:2", "--output", tmp_path / "engine")  # fmt: skip
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    stages = json.loads(result.stdout)["stages"]
    assert [stage["stage"] for stage in stages] == ["lowered", "onnx", "quantized"]
    errors = {layer["name"]: layer["error"] for layer in stages[-1]["layers"]}
    assert errors["classifier.blocks_u.0"] > 1e-4  # more than float32 differs: it was the quantised graph
    assert not (tmp_path / "engine").exists()
    result = run(*arguments, "--min-cosine", "0.9999999", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["stages"][-1]["stage"] == "quantized"
    assert found["first"].startswith("classifier.")


def test_clips_are_among_what_is_compared(run, checkpoint, tmp_path):
    (tmp_path / "clip.mp4").write_text("not a video")
    result = run("diagnose", "--checkpoint", checkpoint, "--target", "onnx", "--clips", tmp_path / "clip.mp4")
    assert (result.exit_code, "clip.mp4" in result.stderr.splitlines()[-1]) == (2, True)


def test_models_for_a_missing_modality_are_compared_too(run, checkpoint):
    result = run(
        "diagnose", "--checkpoint", checkpoint, "--target", "onnx", "--modalities", "audiovisual,audio", "--json"
    )
    assert result.exit_code == 0, result.stderr
    names = [stage["stage"] for stage in json.loads(result.stdout)["stages"]]
    assert names == ["audiovisual, lowered", "audiovisual, onnx", "audio, lowered", "audio, onnx"]


def test_how_far_it_sees_is_said(run, checkpoint):
    result = run("diagnose", "--checkpoint", checkpoint, "--target", "trt")
    assert result.exit_code == 0, result.stderr
    assert "compared up to stage 'onnx': an engine of trt gives no values from inside" in result.stdout


def test_compiled_code_is_compared_layer_by_layer(run, checkpoint):
    result = run("diagnose", "--checkpoint", checkpoint, "--target", "aoti", "--precision", "bf16", "--batch", "1:2:2",
                 "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [stage["stage"] for stage in found["stages"]] == ["lowered", "onnx", "aoti"]
    compared = [[layer["name"] for layer in stage["layers"]] for stage in found["stages"]]
    assert compared[2] == compared[0]
    assert "compiled with the layers among its outputs" in found["blind"]
