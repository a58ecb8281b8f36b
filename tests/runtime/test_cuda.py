"""The driver calls, marshalled for real, into a stand-in whose device memory is host memory."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from kdcmae.errors import DeviceError, EngineError
from kdcmae.runtime.cuda import Device, Driver, Gpu, describe_driver


def counter(stub: ctypes.CDLL, name: str) -> ctypes.c_int:
    return ctypes.c_int.in_dll(stub, f"stub_{name}")


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_what_goes_up_comes_down(stub_cuda: ctypes.CDLL, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    device = Device(0)
    buffer = device.allocate(2 * array.nbytes)
    with device.current():
        buffer.upload(array)
        result = buffer.download(array.shape, array.dtype)
        assert counter(stub_cuda, "pending").value == 1
        device.synchronize()
    assert counter(stub_cuda, "pending").value == 0
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype
    buffer.free()
    device.close()


def test_everything_is_given_back(stub_cuda: ctypes.CDLL) -> None:
    device = Device(0)
    buffers = [device.allocate(size) for size in (1, 1000)]
    assert counter(stub_cuda, "held").value == 6  # the context, the stream, two memories per buffer
    for buffer in buffers:
        buffer.free()
    device.close()
    assert counter(stub_cuda, "held").value == 0
    assert counter(stub_cuda, "depth").value == 0


def test_a_failed_allocation_keeps_nothing(stub_cuda: ctypes.CDLL) -> None:
    ctypes.c_size_t.in_dll(stub_cuda, "stub_host_limit").value = 100
    device = Device(0)
    with pytest.raises(EngineError, match=r"cuMemAllocHost_v2 .*CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        device.allocate(101)
    assert counter(stub_cuda, "held").value == 2
    device.close()
    assert counter(stub_cuda, "depth").value == 0


def test_addresses_are_whole(stub_cuda: ctypes.CDLL) -> None:
    """64 bits arrive as 64 bits: the stand-in's addresses lie above 2^60."""
    device = Device(0)
    buffer = device.allocate(16)
    assert buffer.address > 1 << 60
    assert device.stream > 0
    buffer.free()
    device.close()


def test_work_outside_the_context_is_refused_by_name(stub_cuda: ctypes.CDLL) -> None:
    device = Device(0)
    with pytest.raises(EngineError, match=r"cuStreamSynchronize .*CUDA_ERROR_INVALID_CONTEXT \(201\)"):
        device.synchronize()
    device.close()


def test_no_driver_is_a_device_error(no_gpu: None) -> None:
    with pytest.raises(
        DeviceError, match=r"need a CUDA device; none found \(libcuda-that-is-not-here\.so\.1"
    ) as caught:
        Device(0)
    assert caught.value.exit_code == 3


def test_a_library_that_is_no_driver_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcmae.runtime.cuda.LIBRARY", None)  # this process itself
    with pytest.raises(DeviceError, match=r"none found \(.*cuInit"):
        Device(0)


def test_a_driver_without_devices_is_a_device_error(stub_cuda: ctypes.CDLL) -> None:
    counter(stub_cuda, "init_status").value = 100
    with pytest.raises(DeviceError, match=r"none found \(cuInit .*CUDA_ERROR_NO_DEVICE \(100\)"):
        Device(0)
    counter(stub_cuda, "init_status").value = 0
    counter(stub_cuda, "device_count").value = 2
    with pytest.raises(DeviceError, match="no number 2 of 2"):
        Device(2)
    Device(1).close()


def test_the_driver_and_its_devices_are_described(stub_cuda: ctypes.CDLL) -> None:
    gpu = Gpu(name="Stand-in", compute_capability="8.9", memory_bytes=2**31)
    assert describe_driver() == Driver(cuda=(13, 1), gpus=(gpu,))
    ctypes.c_int.in_dll(stub_cuda, "stub_init_status").value = 100
    assert describe_driver() == Driver(cuda=(13, 1), gpus=())
    assert ctypes.c_int.in_dll(stub_cuda, "stub_held").value == 0


def test_no_driver_is_none(no_gpu: None) -> None:
    assert describe_driver() is None
