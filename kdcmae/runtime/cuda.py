"""The part of CUDA that a TensorRT engine needs, called in the driver library through ctypes.

TensorRT runs on memory and a stream that its caller provides. With ctypes, the runtime needs only numpy and the engine
library, neither torch nor cuda-python.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DeviceError, EngineError

__all__ = ["Buffer", "Device", "Driver", "Gpu", "describe_driver"]

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_INT, _SIZE, _FLAGS, _ADDRESS, _HANDLE = (
    ctypes.c_int,
    ctypes.c_size_t,
    ctypes.c_uint,
    ctypes.c_uint64,  # CUdeviceptr
    ctypes.c_void_p,  # CUcontext, CUstream, host pointers
)
# The entry points of CUDA 12 and later; the suffix is part of the binary interface since CUDA 3.2 / 4.0.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_FLAGS,),
    "cuGetErrorName": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuDeviceGetCount": (ctypes.POINTER(_INT),),
    "cuDeviceGet": (ctypes.POINTER(_INT), _INT),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_HANDLE), _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxPushCurrent_v2": (_HANDLE,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(_HANDLE),),
    "cuStreamCreate": (ctypes.POINTER(_HANDLE), _FLAGS),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemAllocHost_v2": (ctypes.POINTER(_HANDLE), _SIZE),
    "cuMemFreeHost": (_HANDLE,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _ADDRESS, _SIZE, _HANDLE),
}
_STREAM_NON_BLOCKING = 1
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One CUDA device."""

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver: the newest version of CUDA that it runs, and its devices."""

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def describe_driver() -> Driver | None:
    """The driver and its devices; None if there is no driver. Opens no device and creates no context."""
    try:
        library = ctypes.CDLL(LIBRARY)
        version, count = _INT(), _INT()
        library.cuDriverGetVersion(ctypes.byref(version))
        if library.cuInit(0) == 0:
            library.cuDeviceGetCount(ctypes.byref(count))
        gpus = tuple(_describe_gpu(library, ordinal) for ordinal in range(count.value))
    except (OSError, AttributeError):
        return None
    return Driver(cuda=(version.value // 1000, version.value % 1000 // 10), gpus=gpus)


def _describe_gpu(library: ctypes.CDLL, ordinal: int) -> Gpu:
    device, major, minor, memory = _INT(), _INT(), _INT(), _SIZE()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), ordinal)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
    )


class Device:
    """The primary context of one CUDA device, which all libraries in the process share, and one stream.

    Copies and :meth:`synchronize` belong inside :meth:`current`.

    Args:
        ordinal: number of the device, from 0.

    Raises:
        DeviceError: no driver, no device, or no device of that number.
    """

    def __init__(self, ordinal: int) -> None:
        self._library = _load_library()
        count = _INT()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGetCount", ctypes.byref(count))
        except EngineError as error:
            raise DeviceError(f"TensorRT engines need a CUDA device; none found ({error})") from error
        if ordinal >= count.value:
            raise DeviceError(f"TensorRT engines need a CUDA device; no number {ordinal} of {count.value}")
        self._device = _INT()
        self._call("cuDeviceGet", ctypes.byref(self._device), ordinal)
        self._context = _HANDLE()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._stream = _HANDLE()
        with self.current():
            self._call("cuStreamCreate", ctypes.byref(self._stream), _STREAM_NON_BLOCKING)

    @property
    def stream(self) -> int:
        """Address of the stream all work goes to."""
        return self._stream.value or 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread, and afterwards whatever the app had made current before."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(_HANDLE()))

    def allocate(self, size_bytes: int) -> Buffer:
        """Allocate device memory, and page-locked host memory of the same size."""
        with self.current():
            return Buffer(self, size_bytes)

    def synchronize(self) -> None:
        """Wait until the stream has finished all queued work."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Destroy the stream and release the context."""
        with self.current():
            self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(name))
            reason = name.value.decode() if name.value else "unknown error"
            raise EngineError(f"{function} of {LIBRARY} failed: {reason} ({status})")


class Buffer:
    """Device memory, and page-locked host memory to copy through; see :meth:`Device.allocate`."""

    def __init__(self, device: Device, size_bytes: int) -> None:
        self._device = device
        self._address = _ADDRESS()
        self._host = _HANDLE()
        device._call("cuMemAlloc_v2", ctypes.byref(self._address), size_bytes)
        try:
            device._call("cuMemAllocHost_v2", ctypes.byref(self._host), size_bytes)
        except EngineError:
            device._call("cuMemFree_v2", self._address)
            raise
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(self._host.value or 0))

    @property
    def address(self) -> int:
        """Address of the device memory."""
        return self._address.value

    def upload(self, array: NDArray[Any]) -> None:
        """Queue the copy of a C-contiguous array to the device; the array may be changed at once."""
        self._bytes[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self._device._call("cuMemcpyHtoDAsync_v2", self._address, self._host, array.nbytes, self._device._stream)

    def download(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Queue the copy from the device; the returned view holds the values once the stream is synchronised."""
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        self._device._call("cuMemcpyDtoHAsync_v2", self._host, self._address, size_bytes, self._device._stream)
        return self._bytes[:size_bytes].view(dtype).reshape(shape)

    def free(self) -> None:
        """Free the device memory and the host memory."""
        with self._device.current():
            self._device._call("cuMemFree_v2", self._address)
            self._device._call("cuMemFreeHost", self._host)


def _load_library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
        for function, arguments in _SIGNATURES.items():
            getattr(library, function).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise DeviceError(
            f"TensorRT engines need a CUDA device; none found ({error}); install the NVIDIA driver"
        ) from error
    return library
