"""Kernel tests run interpreted on the CPU, or, under ``-m gpu``, compiled on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Choose before Triton is imported: its functions are decorated one way or the other for good."""
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
        raise pytest.UsageError("triton was imported before TRITON_INTERPRET was set; run tests/kernels on their own")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where to run: the CPU under the interpreter, and a GPU where one is asked for."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def poisoned() -> Callable[[], AbstractContextManager[None]]:
    """A context in which new, unwritten floating memory is NaN: an element left out shows."""

    @contextmanager
    def poison() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.utils.deterministic.fill_uninitialized_memory
            assert torch.empty(3).isnan().all()
            yield
        finally:
            torch.use_deterministic_algorithms(False)

    return poison
