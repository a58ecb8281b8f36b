"""Weights of ONNX graphs in a file beside them."""

from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.weights import WeightsFile, data_file, detached, read_values

onnx = pytest.importorskip("onnx")

LARGE = np.arange(1001, dtype=np.float32)
OTHER = -LARGE
SMALL = np.arange(10, dtype=np.float32)


@pytest.fixture
def moved(tmp_path):
    """Initializers of a graph that is about to be written, and its folder."""
    tensors = [onnx.numpy_helper.from_array(values) for values in (LARGE, SMALL, OTHER, LARGE)]
    with WeightsFile(data_file(tmp_path / "graph.onnx")) as file:
        for tensor in tensors:
            file.move(tensor)
    return tensors, tmp_path


def test_large_ones_move_into_the_file_once_and_small_ones_stay(moved):
    (large, small, other, again), folder = moved
    assert not large.raw_data
    assert small.raw_data == SMALL.tobytes()
    gap = b"\0" * (-LARGE.nbytes % 64)  # so that each is aligned
    assert data_file(folder / "graph.onnx").read_bytes() == LARGE.tobytes() + gap + OTHER.tobytes()
    assert large.external_data == again.external_data != other.external_data


def test_values_are_read_wherever_they_are(moved):
    tensors, folder = moved
    for tensor, values in zip(tensors, (LARGE, SMALL, OTHER, LARGE), strict=True):
        np.testing.assert_array_equal(read_values(tensor, folder), values)
        assert not tensor.raw_data or values is SMALL


def test_a_detached_copy_has_its_content_and_can_move_on(moved, tmp_path):
    (large, small, *_), folder = moved
    for tensor, values in ((large, LARGE), (small, SMALL)):
        copy = detached(tensor, folder)
        assert copy.raw_data == values.tobytes()
        assert not copy.external_data
    copy = detached(large, folder)
    target = tmp_path / "other" / "graph.onnx"
    target.parent.mkdir()
    with WeightsFile(data_file(target)) as file:
        file.move(copy)
    data_file(folder / "graph.onnx").unlink()
    np.testing.assert_array_equal(read_values(copy, target.parent), LARGE)
