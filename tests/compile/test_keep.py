"""Engines that run on a share of the tokens choose the tokens that the model chooses."""

from __future__ import annotations

from typing import get_args

import pytest

from kdcmae.compile import export, models
from kdcmae.compile.lowering import lower
from kdcmae.compile.parity import TOLERANCE, relative_error
from kdcmae.compile.sessions import open_session
from kdcmae.compile.targets import BuildRequest, openvino, trt
from kdcmae.keep import KeepBy, TokenKeep, keep_tokens
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange

BATCH = BatchRange(1, 2, 3)


@pytest.fixture(params=get_args(KeepBy))
def model(request, smallest):
    kept = keep_tokens(smallest, TokenKeep(ratio=0.5, by=request.param))
    return models.classifier_model(kept, name="tiny", source="a test", random_weights=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_choose_the_same_tokens(precision, model, tmp_path):
    graph = tmp_path / "graph.onnx"
    export.export_onnx(model, export.export_program(model, lower(model.module, precision), BATCH), graph)
    request = BuildRequest(
        program=None,
        graph=graph,
        folder=tmp_path,
        precision=precision,
        inputs=model.inputs,
        outputs=("logits",),
        batch=BATCH,
    )
    inputs = example_inputs(model.inputs, 3)
    right = models.run(model, model.module, inputs)["logits"]
    if precision != "bf16":  # ONNX Runtime has no bf16 on CPUs
        assert relative_error(open_session(graph)(inputs)["logits"], right) < TOLERANCE[precision]
    engine = openvino.TARGET.build(request)
    limit = TOLERANCE["fp32" if precision == "fp32" else "bf16"]  # the CPU plugin executes fp16 as bf16
    assert relative_error(engine.run(inputs)["logits"], right) < limit
    if precision == "fp16":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
        assert trt.TARGET.build(request).products
