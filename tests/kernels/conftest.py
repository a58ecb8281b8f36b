"""Kernel tests run interpreted on the CPU, or, under ``-m gpu``, compiled on a GPU; see tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch


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
