from __future__ import annotations

import numpy as np

from kdcmae.runtime.scores import scores


def test_softmax_of_large_logits_does_not_overflow():
    result = scores(np.array([[1000.0, 1000.0, 0.0]], dtype=np.float32), "softmax")
    np.testing.assert_allclose(result, [[0.5, 0.5, 0.0]])


def test_sigmoid_of_large_logits_does_not_overflow():
    result = scores(np.array([-1000.0, 0.0, 1000.0], dtype=np.float32), "sigmoid")
    np.testing.assert_allclose(result, [0.0, 0.5, 1.0])


def test_rows_are_independent():
    logits = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    np.testing.assert_allclose(scores(logits, "softmax")[2], scores(logits[2], "softmax"))
    np.testing.assert_allclose(scores(logits, "softmax").sum(axis=1), 1.0)
