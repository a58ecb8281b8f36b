"""TensorRT plans of full TensorRT and of TensorRT for RTX, which have the same interface under two module names.

Not yet verified on a GPU: the calls ran against a stand-in for the CUDA driver that works on host memory, and real
plans were built but not executed, because the machine had no GPU.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kdcmae.errors import BrokenDependencyError, ConfigError, EngineError, MissingDependencyError
from kdcmae.extras import to_run
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import (
    Backend,
    TensorType,
    bfloat16_to_float32,
    check_tensors,
    engine_option,
    import_library,
    require_same_release,
)
from kdcmae.runtime.cuda import Device
from kdcmae.runtime.manifest import Manifest, TensorSpec

__all__ = ["TensorRTBackend", "error_logger", "import_tensorrt"]

# The wheels that install exactly one version of each flavour.
_PACKAGES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
}
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
}


def import_tensorrt(flavour: str) -> ModuleType:
    """Import ``"tensorrt"`` or ``"tensorrt_rtx"``; the latter also from its bindings package alone.

    Raises:
        MissingDependencyError: this flavour is not installed.
        BrokenDependencyError: it does not load, or a file with its name is imported instead.
    """
    try:
        module = import_library(flavour, install="tensorrt" if flavour == "tensorrt" else to_run("trt"))
    except MissingDependencyError:
        if flavour != "tensorrt_rtx":
            raise
        module = import_library("tensorrt_rtx_bindings", install=to_run("trt"))
    if not hasattr(module, "Runtime"):
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "a file")
        raise BrokenDependencyError(f"{place} takes the place of the library {flavour}; rename it")
    return module


def error_logger(trt: Any) -> Any:
    """A logger that collects TensorRT's errors for the exception instead of writing them to stderr."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # known only when TensorRT is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            return "; ".join(self.errors[-3:]) or "TensorRT gave no reason"

    return Logger()


class TensorRTBackend(Backend):
    """A TensorRT plan on one CUDA device, with memory for its largest batch.

    ``manifest.engine`` holds ``flavour`` (``"tensorrt"`` or ``"tensorrt_rtx"``) and, optionally, ``device``
    (``"cuda:0"`` by default). The installed version must be exactly the one that built the plan. A missing device is
    reported before the plan is deserialised.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None) -> None:
        flavour = engine_option(manifest, "flavour", tuple(_PACKAGES))
        trt = import_tensorrt(flavour)
        require_same_release(manifest, flavour, trt.__version__, packages=_PACKAGES[flavour])
        self._outputs = manifest.outputs
        with ExitStack() as resources:
            self._device = Device(_ordinal(device or manifest.engine.get("device", "cuda:0")))
            resources.callback(self._device.close)
            self._buffers = {}
            for spec in (*manifest.inputs, *manifest.outputs):
                self._buffers[spec.name] = self._device.allocate(_largest_size_bytes(spec, manifest.batch.max))
                resources.callback(self._buffers[spec.name].free)
            self._load(trt, folder / manifest.engine["file"], manifest)
            self._resources = resources.pop_all()

    def _load(self, trt: ModuleType, path: Path, manifest: Manifest) -> None:
        self._log = error_logger(trt)
        with self._device.current():
            # The runtime must outlive the engine.
            self._runtime = trt.Runtime(self._log)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise EngineError(f"TensorRT {trt.__version__} cannot load {path}: {self._log.reason()}")
            check_tensors(manifest, *_tensor_types(trt, self._engine))
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"TensorRT {trt.__version__} cannot run {path}: {self._log.reason()}")
            for name, buffer in self._buffers.items():
                self._context.set_tensor_address(name, buffer.address)

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch; the outputs are views of memory that the next call overwrites."""
        with self._device.current():
            for name, array in feed.items():
                # A context starts with optimization profile 0, and the compiler creates no other.
                if not self._context.set_input_shape(name, array.shape):
                    raise EngineError(f"TensorRT refuses shape {array.shape} for {name}: {self._log.reason()}")
                self._buffers[name].upload(array)
            if not self._context.execute_async_v3(self._device.stream):
                raise EngineError(f"TensorRT failed to run the plan: {self._log.reason()}")
            results = {
                spec.name: self._buffers[spec.name].download(
                    tuple(self._context.get_tensor_shape(spec.name)), _storage(spec)
                )
                for spec in self._outputs
            }
            self._device.synchronize()
        return {
            spec.name: bfloat16_to_float32(results[spec.name]) if spec.dtype == "bfloat16" else results[spec.name]
            for spec in self._outputs
        }

    @classmethod
    def library_version(cls, module: str, *, install: str) -> str:
        """Version of the flavour that the module belongs to, see :meth:`Backend.library_version`."""
        return str(import_tensorrt(module.removesuffix("_bindings")).__version__)

    def close(self) -> None:
        """Release the plan, its memory, and the hold on the device."""
        with self._device.current():
            del self._context, self._engine, self._runtime
        self._resources.close()


def _ordinal(device: Any) -> int:
    number = re.fullmatch(r"cuda(?::(\d+))?", str(device))
    if number is None:
        raise ConfigError(f"device={device!r} is not a device of a TensorRT engine; use cuda, cuda:0, cuda:1, ...")
    return int(number.group(1) or 0)


def _tensor_types(trt: Any, engine: Any) -> tuple[dict[str, TensorType], dict[str, TensorType]]:
    """The plan's inputs and outputs."""
    inputs: dict[str, TensorType] = {}
    outputs: dict[str, TensorType] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        shape = tuple(size if size >= 0 else None for size in engine.get_tensor_shape(name))
        role = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        role[name] = _DTYPES.get(dtype, dtype), shape
    return inputs, outputs


def _storage(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype("uint16" if spec.dtype == "bfloat16" else spec.dtype)


def _largest_size_bytes(spec: TensorSpec, largest_batch: int) -> int:
    return math.prod(spec.sizes(largest_batch, "max")) * _storage(spec).itemsize
