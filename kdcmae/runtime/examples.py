"""Made-up inputs of an engine's shapes, for checks and timings that need no clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.manifest import BATCH_AXIS, TensorSpec

__all__ = ["example_inputs"]


def example_inputs(specs: tuple[TensorSpec, ...], batch: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded inputs: standard-normal where they are float, as normalised inputs are; the whole range of integers.

    Args:
        specs: the inputs to make.
        batch: samples.
        seed: of numpy's default generator.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in specs:
        shape = tuple(batch if axis == BATCH_AXIS else int(axis) for axis in spec.shape)
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        else:
            limits = np.iinfo(dtype)
            arrays[spec.name] = generator.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return arrays
