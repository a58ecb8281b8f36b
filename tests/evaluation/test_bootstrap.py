from __future__ import annotations

import numpy as np

from kdcmae.evaluation.bootstrap import clip_weights, weighted_map
from kdcmae.evaluation.metrics import mean_average_precision


def test_weighted_map_is_that_of_repeated_clips() -> None:
    rng = np.random.default_rng(3)
    positives = rng.random((30, 4)) < 0.3
    scores = (positives + rng.normal(size=positives.shape)).round(1)  # so that some tie
    weights = clip_weights(positives, (5, 5))
    assert weights.shape == (5, 30)
    assert (weights.sum(axis=1) == 30).all()
    times = weights.astype(int)
    expected = [mean_average_precision(scores.repeat(row, axis=0), positives.repeat(row, axis=0)) for row in times]
    np.testing.assert_allclose(weighted_map(scores, positives, weights), expected, rtol=1e-5)


def test_no_label_no_map() -> None:
    nothing = np.zeros((6, 2), dtype=bool)
    weights = clip_weights(nothing, (3, 3))
    assert np.isnan(weighted_map(np.zeros((6, 2)), nothing, weights)).all()
