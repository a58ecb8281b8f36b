"""Random inputs with an engine's shapes, for checks and timings that need no clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.feeding import SAMPLES, WAVEFORM
from kdcmae.runtime.manifest import TensorSpec

__all__ = ["example_inputs"]


def example_inputs(specs: tuple[TensorSpec, ...], batch: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded random inputs: standard-normal floats, like normalised inputs, and integers over their whole range.

    A waveform is white noise in [-1, 1], and all of it is sound.

    Args:
        seed: seed of numpy's default generator.
    """
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for spec in specs:
        shape = spec.sizes(batch)
        dtype = np.dtype(spec.dtype)
        if spec.name == WAVEFORM:
            arrays[spec.name] = generator.uniform(-1, 1, shape).astype(dtype)
        elif spec.name == SAMPLES:
            arrays[spec.name] = np.full(shape, arrays[WAVEFORM].shape[1], dtype=dtype)
        elif dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        else:
            limits = np.iinfo(dtype)
            arrays[spec.name] = generator.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return arrays
