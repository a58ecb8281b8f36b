from __future__ import annotations

import numpy as np

from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import TensorSpec


def test_example_inputs_follow_names_shapes_dtypes_and_seed():
    specs = (
        TensorSpec("audio", ("batch", 5, 4), "float32", ""),
        TensorSpec("half", (3,), "float16", ""),
        TensorSpec("frame", ("batch", 50, 50, 3), "uint8", ""),
    )
    inputs = example_inputs(specs, 2, seed=0)
    assert {name: (array.shape, array.dtype.name) for name, array in inputs.items()} == {
        "audio": ((2, 5, 4), "float32"),
        "half": ((3,), "float16"),
        "frame": ((2, 50, 50, 3), "uint8"),
    }
    assert (inputs["frame"].min(), inputs["frame"].max()) == (0, 255)
    again, other = example_inputs(specs, 2, seed=0), example_inputs(specs, 2, seed=1)
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
