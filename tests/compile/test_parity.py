from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.parity import Ladder, relative_error, tolerance

REFERENCE = {"logits": np.array([[1.0, -4.0]], dtype=np.float32)}


def test_error_is_relative_to_the_largest_reference_value():
    assert relative_error(np.array([[1.0, -3.0]]), REFERENCE["logits"]) == pytest.approx(0.25)


@pytest.mark.parametrize("outputs", [np.array([[1.0]]), np.array([[np.nan, -4.0]]), np.array([[np.inf, -4.0]])])
def test_wrong_shapes_and_nan_are_infinitely_wrong(outputs):
    assert relative_error(outputs, REFERENCE["logits"]) == float("inf")


def test_the_first_failing_rung_is_named():
    ladder = Ladder(REFERENCE)
    ladder.climb("lowered", lambda: REFERENCE, tolerance=1e-4)
    ladder.skip("onnx", "no kernels")
    ladder.climb("engine", lambda: {"logits": REFERENCE["logits"] * 1.1}, tolerance=1e-4)
    ladder.climb("artifact", lambda: {}, tolerance=1e-4)
    assert [rung.status for rung in ladder.rungs] == ["passed", "skipped", "failed", "failed"]
    assert ladder.first_failure is not None
    assert ladder.first_failure.name == "engine"


def test_a_passing_ladder_has_no_failure():
    ladder = Ladder(REFERENCE)
    ladder.climb("engine", lambda: REFERENCE, tolerance=0.0)
    assert ladder.first_failure is None


def test_the_widest_precision_sets_the_tolerance():
    assert tolerance({"fp16", "bf16"}) == tolerance({"bf16"})


def test_a_stage_may_run_the_first_samples_only():
    ladder = Ladder({"logits": np.array([[1.0], [2.0]])})
    assert ladder.climb("lowered", lambda: {"logits": np.array([[1.0]])}, tolerance=0.0, samples=1).status == "passed"
    assert ladder.climb("lowered", lambda: {"logits": np.array([[1.0]])}, tolerance=0.0).status == "failed"
