"""What is said where clips do not show that an engine is accurate enough."""

from __future__ import annotations

import pytest

from kdcmae.compile.quantize.accuracy import Accuracy
from kdcmae.evaluation.paired import Loss


def accuracy(most: int | None) -> Accuracy:
    """Half a point lost of 1000 clips that report, of which 8000 in all would show less than one."""
    loss = Loss(metric="top-1", clips=1000, reference=90.0, other=89.5, low=-0.5, high=1.5)
    return Accuracy(source="own.json", loss=loss, agreement=99.0, others=1000, most=most)


@pytest.mark.parametrize("most", [None, 8000])
def test_as_many_clips_are_advised_as_would_decide(most):
    assert accuracy(most).problem(1.0).endswith("too few clips to decide: about 8000 in --evaluation would")
    assert not accuracy(most).problem(1.5)


def test_more_clips_than_are_used_are_not_advised():
    found = accuracy(2000).problem(1.0)
    assert found.endswith("about 8000 in --evaluation would, of which at most 2000 are used: raise --max-drop")
    assert "--max-drop" not in accuracy(2000).problem(0.25)  # it loses more, which no clips change
