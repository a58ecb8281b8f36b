"""Fixtures every test may use."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch  # tests/runtime runs without

sys.path.insert(0, str(Path(__file__).parent))  # tests of every folder look at pages with browser.py

from browser import browser, look_at  # noqa: F401 - fixtures

# Kernels are interpreted on the CPU. Triton decorates its functions one way or the other when it is first imported, and
# other conftests may import it, so this comes first.
os.environ.setdefault("TRITON_INTERPRET", "1")

# What a build gives must not depend on how busy the machine is.
os.environ.setdefault("KDCMAE_TUNE", "off")

# A shell starts what runs in its background with Ctrl-C ignored, and tests' own processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are of different speed, and a test that fails has to fail again.
settings.register_profile("kdcmae", deadline=None, derandomize=True)
settings.load_profile("kdcmae")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run the GPU's tests interpreted."""
    # Where memory is poisoned PyTorch also insists on a cuBLAS set to repeat its sums in one order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    expression = config.option.markexpr
    if "gpu" in expression and "not gpu" not in expression and os.environ["TRITON_INTERPRET"] == "1":
        raise pytest.UsageError("on a GPU kernels are compiled: use make test-gpu, or set TRITON_INTERPRET=0")


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over all that exists by now: every build of an engine makes several."""
    gc.collect()
    gc.freeze()


def _folder(name: str, content: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: {content} are not at hand")
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without NVIDIA's driver."""
    monkeypatch.setattr("kdcmae.runtime.cuda.LIBRARY", "libcuda-that-is-not-here.so.1")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], list[object]]:
    """Makes a function of the system or of a library raise an error, by its dotted name, and lists its calls."""

    def make(name: str, error: BaseException) -> list[object]:
        calls: list[object] = []

        def fail(*arguments: object, **options: object) -> NoReturn:
            calls.append((arguments, options))
            raise error

        monkeypatch.setattr(name, fail)
        return calls

    return make


@pytest.fixture(autouse=True, scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine cache of this test session, in the place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["KDCMAE_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def quick_builds() -> Iterator[None]:
    """Builds of engines in half the time.

    PyTorch's ONNX exporter reads its table of operators once instead of for every graph. Latencies are compared for as
    short as they can be, because no test reads what they say. Builds are proved on as few clips as can be ranked: what
    64 show, the tests of that show.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        patch.setattr("kdcmae.compile.latency._WINDOW_S", 0.0)
        patch.setattr("kdcmae.compile.latency._COMPARED_S", 0.0)
        patch.setattr("kdcmae.compile.cases.PAIRED_CLIPS", 8)
        yield


@pytest.fixture(scope="session")
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no file can grow: the system refuses it, which every writer has to answer as a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited() -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


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
    import torch

    with np.load(golden / "inputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]).float() for name in ("audio", "image")}


@pytest.fixture(scope="session")
def golden_outputs(golden: Path) -> dict[str, torch.Tensor]:
    """Every array of outputs.npz as a tensor."""
    import torch

    with np.load(golden / "outputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
