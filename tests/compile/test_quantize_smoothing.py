"""Which of two ways to quantise for OpenVINO is taken, with outputs that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kdcmae.compile.quantize import openvino

EXPECTED = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(("kind", "chosen"), [("softmax", "plain"), ("sigmoid", "smoothed"), ("features", "smoothed")])
def test_closeness_is_that_of_what_an_output_is_for(kind, chosen, monkeypatch):
    """A constant on all logits changes no answer of a softmax, and does change sigmoids and features."""
    answers = {"float": EXPECTED, "plain": EXPECTED + 2, "smoothed": EXPECTED}
    monkeypatch.setattr(openvino, "_quantized", lambda *_, smooth, **__: "smoothed" if smooth else "plain")
    monkeypatch.setattr(openvino, "_answers", lambda made, *_, **__: [{"found": answers[made]}])
    assert openvino._closest("float", SimpleNamespace(), set(), {"found": kind}, saturates=False) == chosen
