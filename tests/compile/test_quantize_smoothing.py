"""Which of two ways to quantise for OpenVINO is taken, with outputs that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.quantize import openvino

EXPECTED = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(("kind", "chosen"), [("softmax", "plain"), ("sigmoid", "smoothed"), ("features", "smoothed")])
def test_closeness_is_that_of_what_an_output_is_for(kind, chosen):
    """A constant on all logits changes no answer of a softmax, and does change sigmoids and features."""
    candidates = iter([("plain", [{"logits": EXPECTED + 2}]), ("smoothed", [{"logits": EXPECTED}])])
    assert openvino.closest(candidates, [{"logits": EXPECTED}], {"logits": kind}) == chosen
    assert (next(candidates, None) is None) is (chosen == "smoothed")  # what is not needed is not made
