from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.compile import models
from kdcmae.compile.export import export_onnx, export_program
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import EngineModel, examples
from kdcmae.compile.quantize import openvino
from kdcmae.compile.quantize.attention import balance_scores, release_scores, score_products, separate_products
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.quantize.ranking import linear_layers
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import HINTS
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

BATCH = BatchRange(1, 1, 1)
BLOCKS = 3  # one audio, one video and one unified block


@pytest.fixture(scope="module")
def model() -> EngineModel:
    torch.manual_seed(0)
    sizes = {"audio_length": 128, "image_size": 64, "specific_depth": 1}
    classifier = KDCMAEClassifier.from_preset("tiny", num_classes=4, **sizes).eval()
    for parameter in classifier.parameters():  # no bias is 0, no norm is the identity
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return models.classifier_model(classifier, name="tiny", source="seed 0", random_weights=True)


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "graph.onnx"
    export_onnx(model, export_program(model, lower(model.module, "fp32"), BATCH), path)
    return path


@pytest.fixture(scope="module")
def products(model, graph) -> set[str]:
    return set(products_of(onnx.load(graph, load_external_data=False).graph, linear_layers(model.module)))


@pytest.fixture
def network(graph):
    return openvino_core().read_model(graph)


def outputs(network, model):
    compiled = openvino_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(dict(examples(model, 1)))["logits"]


def kinds(network) -> list[str]:
    return [op.get_type_name() for op in network.get_ordered_ops()]


def test_separate_products_compute_the_same(model, network, products):
    before = outputs(network, model)
    made = separate_products(network, products)
    after = outputs(network, model)
    assert len(made) == 3 * BLOCKS
    assert set(made.values()) <= products
    assert "Split" not in kinds(network)
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
    assert made.keys() <= {op.get_friendly_name() for op in network.get_ops()}


def test_layers_that_stay_in_floating_point_keep_their_product(network, products):
    assert separate_products(network, {"another"}) == {}
    assert kinds(network).count("Split") == BLOCKS
    assert not score_products(network, products)  # a split stands between


def test_scores_are_those_between_the_separate_products(network, products):
    made = separate_products(network, products)
    scores = score_products(network, made)
    assert len(scores) == BLOCKS
    readers = {op.get_friendly_name(): op for op in network.get_ops()}
    for name in scores:
        assert next(iter(readers[name].output(0).get_target_inputs())).get_node().get_type_name() == "Softmax"
    some = sorted(made)
    assert len(score_products(network, set(some[3:]))) == BLOCKS - 1


def test_queries_and_keys_are_rounded_symmetrically_where_they_are_made(network, products):
    ops = import_openvino().opset13
    made = separate_products(network, products)
    names = score_products(network, made)
    for op in [op for op in network.get_ops() if op.get_friendly_name() in names]:
        for port in (0, 1):
            bounds = [ops.constant(np.float32(value)) for value in (-1.0, 3.0, -1.0, 3.0)]
            rounded = ops.fake_quantize(op.input_value(port), *bounds, 256)
            op.input(port).replace_source_output(rounded.output(0))
    balance_scores(network)
    found = [op for op in network.get_ordered_ops() if op.get_type_name() == "FakeQuantize"]
    assert len(found) == 2 * BLOCKS
    for op in found:
        assert op.input_value(0).get_node().get_type_name() in ("Add", "Multiply")  # a bias, or the scale of the scores
        low, high = (float(op.input_value(port).get_node().data) for port in (1, 2))
        assert (low, high) == (-3.0, pytest.approx(3.0 * 127 / 128))
    assert release_scores(network) == 2 * BLOCKS
    assert "FakeQuantize" not in kinds(network)
    assert release_scores(network) == 0


def test_scores_run_on_integers(model, graph, tmp_path):
    """The queries' and keys' products give int8, and nothing stands between them and the attention."""
    core = openvino_core()
    clips = load_clips(model, "avsynth:4", BATCH, split="train")
    path = tmp_path / "graph.xml"
    openvino.quantize(graph, path, clips, linear_layers(model.module), kinds=models.kinds(model))
    network = core.read_model(path)
    assert openvino.declared_products(network, "fp32")["int8"] == BLOCKS * (3 + 3) + 1  # 80 unified tokens are cut
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": HINTS[openvino.beside_int8(this_cpu())]})
    facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    given = [
        info["outputPrecisions"].astype(str)
        for info in facts
        if info["layerType"].astype(str) == "FullyConnected" and info["runtimePrecision"].astype(str) in ("i8", "u8")
    ]
    assert given.count("i8") == 2 * BLOCKS
