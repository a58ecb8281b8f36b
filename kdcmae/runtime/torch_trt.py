"""Torch-TensorRT engines: ``model.ep``, an exported program whose graph holds TensorRT plans.

Not yet verified on a GPU: the calls are checked against the signatures of the real package.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from kdcmae.errors import BrokenDependencyError, DeviceError, EngineError, MissingDependencyError, cause
from kdcmae.extras import to_run
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend, import_library, require_same_release, run_module
from kdcmae.runtime.manifest import Manifest

__all__ = ["TorchTensorRTBackend", "import_torch_tensorrt"]

INSTALL = to_run("torch-trt")


def import_torch_tensorrt() -> ModuleType:
    """Import Torch-TensorRT, which needs TensorRT's own libraries beside it.

    Raises:
        MissingDependencyError: it is not installed.
        BrokenDependencyError: it does not import, for example because libnvinfer is missing.
    """
    if "torch_tensorrt" not in sys.modules and importlib.util.find_spec("torch_tensorrt") is None:
        raise MissingDependencyError("torch_tensorrt", install=INSTALL)
    try:
        # It prints to stdout when it fails, and stdout may carry a command's JSON.
        with contextlib.redirect_stdout(sys.stderr):
            return import_library("torch_tensorrt", install=INSTALL)
    except (BrokenDependencyError, MissingDependencyError):
        raise
    except Exception as error:  # without libnvinfer it raises a bare Exception
        raise BrokenDependencyError(
            f"torch_tensorrt is installed but does not import: {cause(error)}; "
            f"install TensorRT's libraries with: pip install '{INSTALL}'"
        ) from error


class TorchTensorRTBackend(Backend):
    """A program with TensorRT plans in it, on a CUDA device.

    ``manifest.engine`` may hold ``device`` (``"cuda:0"`` by default). The installed release must be the one that built
    the plans. A missing device is reported before the program is loaded. The folder's files must be verified first,
    because the plans in a program are code.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None) -> None:
        torch_tensorrt = import_torch_tensorrt()
        for library in ("torch_tensorrt", "tensorrt"):
            require_same_release(
                manifest, library, import_library(library, install=INSTALL).__version__, packages=(library,)
            )
        self._torch = import_library("torch", install=INSTALL)
        self._device = str(device or manifest.engine.get("device", "cuda:0"))
        if not self._torch.cuda.is_available():
            raise DeviceError("Torch-TensorRT engines need a CUDA device, torch finds none; install the NVIDIA driver")
        path = folder / manifest.engine["file"]
        try:
            with self._torch.cuda.device(self._device):
                self._module = torch_tensorrt.load(str(path)).module()
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"torch_tensorrt {torch_tensorrt.__version__} cannot load {path}: {cause(error)}"
            ) from error
        self._outputs = [spec.name for spec in manifest.outputs]

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch."""
        with self._torch.cuda.device(self._device):
            results = run_module(self._torch, self._module, feed, self._device)
        return dict(zip(self._outputs, results, strict=True))

    @classmethod
    def library_version(cls, module: str, *, install: str) -> str:
        """See :meth:`Backend.library_version`."""
        return str(import_torch_tensorrt().__version__)

    def close(self) -> None:
        """Release the program and its plans."""
        del self._module
