"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Interpret Triton kernels on the CPU; under ``-m gpu`` compile them.

    This happens before Triton is imported: its functions are decorated one way or the other for good.
    """
    # Where memory is poisoned PyTorch also insists on a cuBLAS set to repeat its sums in one order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    expression = config.option.markexpr
    if "gpu" in expression and "not gpu" not in expression:
        return
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.language as tl
        from triton.runtime.interpreter import InterpretedFunction
    except ImportError:
        return
    if not isinstance(tl.max, InterpretedFunction):
        raise pytest.UsageError("triton was imported before TRITON_INTERPRET was set")


def _folder(name: str, content: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: {content} are not at hand")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers computed with the published CAV-MAE model."""
    return _folder("golden", "the reference numbers of the published model")


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real video clips."""
    return _folder("clips", "the real clips")


@pytest.fixture(scope="session")
def golden_inputs(golden: Path) -> dict[str, torch.Tensor]:
    """audio (2, 1024, 128) and image (2, 3, 224, 224), float32."""
    with np.load(golden / "inputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in ("audio", "image")}


@pytest.fixture(scope="session")
def golden_outputs(golden: Path) -> dict[str, torch.Tensor]:
    """Every array of outputs.npz as a tensor."""
    with np.load(golden / "outputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
