"""Variants of OpenVINO's graphs compute what the plain form computes."""

from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile import models
from kdcmae.compile.export import export_onnx, export_program
from kdcmae.compile.lowering import lower
from kdcmae.compile.targets.openvino_variants import VARIANTS
from kdcmae.compile.variants import Source
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import widen
from kdcmae.runtime.openvino_library import openvino_core


@pytest.fixture(scope="module")
def model(smallest):
    return models.classifier_model(smallest, name="smallest", source="seed 0", random_weights=True)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def source(request, model, tmp_path_factory) -> tuple[str, Source]:
    path = tmp_path_factory.mktemp(request.param) / "graph.onnx"
    export_onnx(model, export_program(model, lower(model.module, request.param), BatchRange(1, 1, 1)), path)
    return request.param, Source(graph=path, floating=path)


def outputs(path, model):
    """In float32, whatever this machine multiplies."""
    network = openvino_core().read_model(path)
    widen(network)
    compiled = openvino_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(dict(models.examples(model, 1)))["logits"]


def test_every_variant_changes_the_graph_and_not_what_it_computes(source, model, tmp_path):
    precision, graph = source
    expected = outputs(graph.graph, model)
    chosen = [variant for variant in VARIANTS if variant.fits(precision, 1)]
    assert chosen
    for variant in chosen:
        path = tmp_path / f"{variant.name}.xml"
        assert variant.write(graph, path)
        assert np.abs(outputs(path, model) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_types_of_a_float_typed_graph_and_the_operation_of_a_fused_attention(model, tmp_path):
    path = tmp_path / "graph.onnx"
    export_onnx(model, export_program(model, lower(model.module, "bf16"), BatchRange(1, 1, 1)), path)
    written = {}
    for variant in (one for one in VARIANTS if one.fits("bf16", 1)):
        target = tmp_path / f"{variant.name}.xml"
        variant.write(Source(graph=path, floating=path), target)
        written[variant.name] = openvino_core().read_model(target).get_ordered_ops()
    kinds = [op.get_type_name() for op in written["fused-attention"]]
    assert kinds.count("ScaledDotProductAttention") == 3
    assert "Softmax" not in kinds
    computed = [op for op in written["float-typed"] if op.get_type_name() not in ("Constant", "Result")]
    assert {op.get_output_element_type(0).to_string() for op in computed} <= {"f32", "i64", "i32", "boolean"}


def test_a_graph_without_what_a_variant_changes_has_none(source, tmp_path):
    _, graph = source
    others = [variant for variant in VARIANTS if "int8" in variant.precisions]
    assert len(others) == 2
    for variant in others:
        assert not variant.write(graph, tmp_path / f"{variant.name}.xml")
