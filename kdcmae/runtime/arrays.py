"""Types of numpy arrays that the whole package shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "Float32", "Float64"]

Arrays = Mapping[str, NDArray[Any]]
"""Inputs or outputs of a model by name."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
