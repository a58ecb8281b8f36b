from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile import models
from kdcmae.compile.cli import main
from kdcmae.compile.export import export_onnx, export_program
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import cosine
from kdcmae.compile.quantize import openvino, qdq
from kdcmae.compile.quantize.accuracy import Accuracy, Evaluation
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.quantize.quantizer import Quantizer
from kdcmae.compile.quantize.ranking import linear_layers, sensitivity
from kdcmae.compile.settings import CompileSettings, QuantizationSettings
from kdcmae.compile.targets import BuildRequest, load_target
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.errors import ConfigError, EngineError, GateError
from kdcmae.evaluation.paired import Loss, unseen_loss
from kdcmae.runtime import load_engine
from kdcmae.runtime.cpu import describe_cpu, this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import HINTS, read_execution
from kdcmae.runtime.openvino_library import openvino_core

BATCH = BatchRange(1, 2, 4)
CLIPS = "avsynth:4"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KDCMAE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    names = LABELS.names
    sizes = {"audio_length": 128, "image_size": 64, "specific_depth": 1}
    return KDCMAEClassifier.from_preset("tiny", num_classes=len(names), labels=names, **sizes).eval()


@pytest.fixture(scope="module")
def model(classifier) -> EngineModel:
    return models.classifier_model(classifier, name="tiny", source="seed 0", random_weights=True)


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "graph.onnx"
    export_onnx(model, export_program(model, lower(model.module, "fp32"), BATCH), path)
    return path


@pytest.fixture(scope="module")
def clips(model):
    return load_clips(model, CLIPS, BATCH, split="train")


def quantizer(model, target="onnx", precision="int8", *, evaluate=Evaluation.on, **wanted) -> Quantizer:
    settings = CompileSettings(
        target=target,
        precision=precision,
        batch=BATCH,
        quantization=QuantizationSettings(calibration=CLIPS, evaluation=CLIPS, **wanted),
    )
    return Quantizer(model, settings, nullcontext, evaluate=evaluate)


def request(model, path, precision) -> BuildRequest:
    return BuildRequest(
        program=None,
        graph=path,
        folder=path.parent,
        precision=precision,
        inputs=model.inputs,
        outputs=("logits",),
        batch=BATCH,
    )


def cosines(model, run, clips) -> list[float]:
    name = model.outputs[0].name
    return [cosine(run(feed)[name], models.reference(model, feed)[name]) for feed in clips.batches]


def test_clips_pair_the_sound_and_the_picture_of_one_clip(model):
    """Calibrating on sound of one clip and picture of another, or on one input alone, is the classic mistake."""
    clips = load_clips(model, "avsynth:3", BatchRange(2, 2, 2), split="train")
    assert clips.count == 3
    assert [{name: array.shape for name, array in batch.items()} for batch in clips.batches] == [
        {"audio": (2, 128, 128), "image": (2, 3, 64, 64)}
    ] * 2
    last = clips.batches[1]
    assert all(np.array_equal(array[0], array[1]) for array in last.values())  # repeated to fill the batch
    assert [len(found) for found in clips.labels] == [1, 1, 1]
    assert clips.targets(model.classes).sum() == 3


def test_every_linear_layer_of_the_blocks_is_found_in_the_graph(model, graph):
    import onnx

    layers = linear_layers(model.module)
    assert len(layers) == 4 * 3  # one audio, one video and one unified block
    found = products_of(onnx.load(graph, load_external_data=False).graph, layers)
    assert sorted(found.values()) == sorted(layers)
    with pytest.raises(EngineError, match="no layer to quantise"):
        products_of(onnx.load(graph, load_external_data=False).graph, ["absent"])


def test_ranking_finds_a_layer_with_outliers_and_leaves_the_model_alone(model, clips):
    """Huge weights on a channel that is always 0 change nothing in float32, but round all the others to nothing."""
    spoilt = dataclasses.replace(model, module=copy.deepcopy(model.module))
    block = spoilt.module.get_submodule("classifier.blocks_u.0")
    block.norm2.weight.data[0] = 0
    block.mlp.fc1.weight.data[:, 0] = 50
    before = copy.deepcopy(spoilt.module.state_dict())
    found = sensitivity(spoilt, clips)
    assert max(found, key=found.__getitem__) == "classifier.blocks_u.0.mlp.fc1"
    assert all(error > 0 for error in found.values())
    after = spoilt.module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_qdq_is_close_and_symmetric(precision, model, graph, clips, tmp_path):
    import onnx

    layers = linear_layers(model.module)
    path = tmp_path / "graph.onnx"
    qdq.quantize(graph, path, clips, layers, precision)
    assert qdq.declared_products(path, precision)[precision] == len(layers)
    # In float32, because 8-bit weights saturate in the kernels of a machine without VNNI.
    assert min(cosines(model, open_graph(path, floating=True), clips)) > 0.995
    quantized = onnx.load(path)
    onnx.checker.check_model(quantized)
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    nodes = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    kind = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[precision]
    assert len(nodes) == 3 * len(layers)
    for node in nodes:
        zero = tensors[node.input[2]]
        assert zero.data_type == kind
        assert not onnx.numpy_helper.to_array(zero).astype(np.float32).any()


def test_weights_that_must_not_saturate_are_stored_unsigned_and_are_the_same(model, graph, clips, tmp_path):
    import onnx

    layers, answers = linear_layers(model.module), []
    for name, saturates in (("signed", False), ("unsigned", True)):
        path = tmp_path / name / "graph.onnx"
        path.parent.mkdir()
        qdq.quantize(graph, path, clips, layers, "int8", saturates=saturates)
        answers.append(open_graph(path, floating=True)(clips.batches[0])["logits"])
    assert np.array_equal(*answers)
    quantized = onnx.load(path)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    weights = [tensors[node.input[0]] for node in quantized.graph.node if node.input and node.input[0] in tensors
               and node.op_type == "DequantizeLinear"]  # fmt: skip
    assert [array.dtype for array in weights] == [np.uint8] * len(layers)
    built = load_target("onnx").build(request(model, path, "int8"))
    assert built.products["int8"] == len(layers)


@pytest.mark.parametrize(("how", "largest"), [({"saturates": True}, {64}), ({"scores": False}, {127, 128})])
def test_where_scores_stay_in_floating_point_only_weights_that_must_not_saturate_have_7_bits(
    how, largest, model, graph, clips, tmp_path
):
    path = tmp_path / "graph.xml"
    openvino.quantize(graph, path, clips, linear_layers(model.module), kinds=models.kinds(model), **how)
    network = openvino_core().read_model(path)
    stored = [op.data for op in network.get_ops() if op.get_type_name() == "Constant" and op.data.dtype == np.int8]
    weights = [data for data in stored if data.ndim == 2]
    assert len(weights) >= 12
    assert max(np.abs(data.astype(int)).max() for data in weights) in largest
    for softmax in [op for op in network.get_ops() if op.get_type_name() == "Softmax"]:
        product = softmax.input_value(0).get_node()
        assert "FakeQuantize" not in {value.get_node().get_type_name() for value in product.input_values()}
    # In float32, because 8-bit weights saturate in the kernels of a machine without VNNI.
    assert min(cosines(model, open_graph(path, floating=True), clips)) > 0.995


@pytest.mark.parametrize(
    ("machine", "on_integers"), [("amx", True), ("avx2-vnni", True), ("avx2", False), ("arm64", False)]
)
def test_scores_are_quantised_for_processors_with_integer_kernels_for_them(machine, on_integers):
    settings = CompileSettings(
        target="openvino", precision="int8", batch=BatchRange(1, 1, 1), cpu=describe_cpu(machine)
    )
    assert ("scores in floating point" not in load_target("openvino").quantization(settings, {}).method) is on_integers


@pytest.mark.parametrize("saturates", [False, True])
def test_a_quantised_graph_executes_in_float32_where_that_is_asked(
    saturates, model, graph, clips, tmp_path, monkeypatch
):
    compiled = []
    compile_native = openvino.compile_native
    monkeypatch.setattr(
        openvino, "compile_native", lambda *given: compiled.append(compile_native(*given)) or compiled[-1]
    )
    path = tmp_path / "graph.xml"
    how = {"kinds": models.kinds(model), "saturates": saturates}
    openvino.quantize(graph, path, clips, linear_layers(model.module), **how)
    run = open_graph(path, floating=True)
    assert set(read_execution(compiled[-1]).products) == {"fp32"}
    assert min(cosines(model, run, clips)) > 0.995


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_tensorrt_takes_the_pairs(precision, model, graph, clips, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    path = tmp_path / "graph.onnx"
    layers = linear_layers(model.module)
    qdq.quantize(graph, path, clips, layers, precision)
    built = load_target("trt").build(request(model, path, precision))
    assert built.products[precision] == len(layers)
    assert built.executed["QUANTIZE"] == {precision: len(layers)}
    assert built.products == built.declared
    assert (tmp_path / "engine.plan").stat().st_size > 1000


def test_a_product_that_lost_its_pair_counts_as_float_in_the_network(model, graph, clips, tmp_path):
    import onnx

    pytest.importorskip("tensorrt_rtx_bindings")
    layers, path = linear_layers(model.module), tmp_path / "graph.onnx"
    qdq.quantize(graph, path, clips, layers, "int8")
    quantized = onnx.load(path)
    node = next(node for node in quantized.graph.node if node.name in products_of(quantized.graph, layers))
    node.input[0] = node.input[0].removesuffix(".dequantized")
    onnx.save_model(quantized, path, save_as_external_data=True, location="lost.data")
    assert load_target("trt").build(request(model, path, "int8")).products["int8"] == len(layers) - 1


def open_graph(path, *, floating=False):
    """What runs a quantised graph: the target whose form it is in."""
    return load_target("openvino" if path.suffix == ".xml" else "onnx").run_quantized(path, floating=floating)


def made_up(drop: float, half: float = 0.0) -> Accuracy:
    """An accuracy with this loss, and an interval of half a width to either side."""
    loss = Loss(metric="top-1", clips=4, reference=90.0, other=90.0 - drop, low=drop - half, high=drop + half)
    return Accuracy(source="made up", loss=loss, agreement=100.0, others=4)


def answering(choosing: list[Accuracy], reporting: Accuracy | None = None):
    """Stands for the clips that accuracy is measured on: what candidates lose, one after the other, and the chosen."""
    clips = SimpleNamespace(choose=lambda run: choosing.pop(0), report=lambda run: reporting)
    return lambda *_: clips


def test_layers_stay_in_float_until_accuracy_is_within_the_budget(model, graph, tmp_path):
    """A made-up accuracy that is kept by leaving the five most sensitive layers alone, which others then report."""
    kept = [0, 1, 2, 4, 8, 6, 5]
    drops = [made_up(0.0 if layers >= 5 else 0.25, half=0.5) for layers in kept]
    made = quantizer(model, max_drop=0.5, evaluate=answering(drops, made_up(0.125, half=0.25)))
    shutil.copytree(graph.parent, tmp_path / "search")
    path, report = made.quantize(tmp_path / "search" / "graph.onnx")
    assert drops == []
    assert {int(folder.name.rpartition("-")[2]) for folder in (tmp_path / "search").glob("without-*")} == set(kept)
    assert len(report.kept) == 5
    assert len(report.quantized) == 7
    assert list(report.kept) == list(report.sensitivity)[:5]
    assert qdq.declared_products(path, "int8")["int8"] == 7
    assert list(report.sensitivity.values()) == sorted(report.sensitivity.values(), reverse=True)
    accuracy = report.to_dict()["accuracy"]
    assert (accuracy["drop"], accuracy["interval"], accuracy["clips_that_chose"]) == (0.125, [-0.125, 0.375], 4)


def test_a_budget_that_cannot_be_kept_is_an_error(model, graph, tmp_path):
    made = quantizer(model, max_drop=0.0, evaluate=answering([made_up(10.0)] * 20))
    shutil.copytree(graph.parent, tmp_path / "search")
    with pytest.raises(GateError, match=r"a single layer in int8, top-1 drops by 10\.00 percentage .* allowed 0"):
        made.quantize(tmp_path / "search" / "graph.onnx")


def test_clips_that_chose_nothing_have_to_bear_the_choice_out(model, graph, tmp_path):
    made = quantizer(model, max_drop=1.0, evaluate=answering([made_up(0.0)], made_up(0.5, half=1.0)))
    shutil.copytree(graph.parent, tmp_path / "search")
    with pytest.raises(GateError, match="allowed 1; too few clips to decide: about 32 in --evaluation would"):
        made.quantize(tmp_path / "search" / "graph.onnx")


def test_accuracy_counts_labels_and_agreement(model, graph):
    trained = dataclasses.replace(model, facts={**model.facts, "random_weights": False})
    evaluation = Evaluation.on(trained, "avsynth:13", BATCH)
    chosen, reported = (measure(open_graph(graph)) for measure in (evaluation.choose, evaluation.report))
    assert [(found.loss.clips, found.others) for found in (chosen, reported)] == [(6, 7), (7, 6)]
    assert (reported.source, reported.loss.metric, reported.agreement) == ("AVSynth test", "top-1", 100)
    assert (reported.loss.points, reported.loss.low, reported.loss.high) == (0, 0, unseen_loss(7))
    assert reported.loss.reference < 50  # twelve classes, of which it knows nothing


def test_an_untrained_model_is_right_by_itself(model):
    """Its labels mean nothing: what counts is how often another engine answers in another way."""
    clips = load_clips(model, "avsynth:12", BATCH, split="test")
    evaluation = Evaluation(model, clips)
    wrong = iter([-1, 1, 1, 1, 1, 1])
    accuracy = evaluation.report(lambda feed: {"logits": next(wrong) * models.reference(model, feed)["logits"]})
    assert accuracy.source == "AVSynth test, labelled by the model itself"
    assert accuracy.loss.reference == 100
    assert accuracy.loss.points == pytest.approx(100 / 6)
    assert accuracy.agreement == pytest.approx(100 - accuracy.loss.points)


def test_int8_for_openvino_from_the_command_line(classifier, clips, tmp_path):
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(classifier, checkpoint)
    folder = tmp_path / "engine"
    arguments = ["--target", "openvino", "--precision", "int8", "--checkpoint", str(checkpoint), "--calibration", CLIPS]
    arguments += ["--evaluation", CLIPS, "--max-drop", "100", "--output", str(folder), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    precision = manifest["precision"]
    # Queries, keys and values of three blocks have products of their own, and 80 unified tokens are cut.
    assert precision["products"]["int8"] == 12 + 2 * 3 + 1
    assert len(precision["quantized"]) == 12
    assert set(precision["sensitivity"]) == set(precision["quantized"])
    assert precision["calibration"] == {"source": "AVSynth train", "clips": 4}
    accuracy = precision["accuracy"]
    assert (accuracy["clips"], accuracy["clips_that_chose"], accuracy["metric"]) == (2, 2, "top-1")
    assert accuracy["interval"][0] <= accuracy["drop"] <= accuracy["interval"][1] <= 100
    assert [rung["name"] for rung in manifest["parity"]] == ["program", "onnx", "quantized", "engine", "artifact"]
    assert manifest["engine"]["inference_precision"] == HINTS[openvino.beside_int8(this_cpu())]
    speed = manifest["build"]["speed"]
    assert speed["against"] == this_cpu().fastest_floating
    assert 0 < speed["speed_low"] <= speed["speed"] <= speed["speed_high"]
    with load_engine(folder) as engine:
        assert engine.self_test().passed


@pytest.mark.parametrize("outliers", [False, True])
def test_activations_are_smoothed_only_where_they_have_outliers(outliers, classifier, clips, tmp_path):
    """A channel a thousand times as large as the others leaves nothing of them; the weights undo it in float32."""
    made = copy.deepcopy(classifier)
    if outliers:
        for block in (*made.blocks_a, *made.blocks_v, *made.blocks_u):
            block.norm2.weight.data[0] *= 1000
            block.mlp.fc1.weight.data[:, 0] /= 1000
    model = models.classifier_model(made, name="tiny", source="a test", random_weights=True)
    graph, path = tmp_path / "graph.onnx", tmp_path / "graph.xml"
    export_onnx(model, export_program(model, lower(model.module, "fp32"), BATCH), graph)
    openvino.quantize(graph, path, clips, linear_layers(model.module), kinds=models.kinds(model))
    assert ("nncf_smooth_quant" in path.read_text(encoding="utf-8")) is outliers
    assert min(cosines(model, open_graph(path, floating=True), clips)) > 0.995


def test_the_quantised_graph_is_made_once(model, graph, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(graph.parent, tmp_path / name)
    path, report = quantizer(model).quantize(tmp_path / "first" / "graph.onnx")
    assert not report.reused
    again, report = quantizer(model).quantize(tmp_path / "second" / "graph.onnx")
    assert report.reused
    assert again.read_bytes() == path.read_bytes()


def test_without_the_cache_the_graph_is_made_again_and_not_kept(model, graph, monkeypatch, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(graph.parent, tmp_path / name)
    monkeypatch.setenv("KDCMAE_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        assert not quantizer(model, reuse=False).quantize(tmp_path / name / "graph.onnx")[1].reused
    assert not (tmp_path / "cache").exists()


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="--max-drop 101 must lie between"):
        QuantizationSettings(max_drop=101)
