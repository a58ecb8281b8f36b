from __future__ import annotations

import ctypes
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from kdcmae.errors import ConfigError, DeviceError
from kdcmae.runtime import capabilities
from kdcmae.runtime.capabilities import CAPABILITIES, PRECISIONS, require_capable, require_device
from kdcmae.runtime.manifest import TARGETS, BatchRange

ONE, RANGE = BatchRange(1, 1, 1), BatchRange(1, 8, 64)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcmae.runtime.cuda.LIBRARY", "libcuda-that-is-not-here.so.1")


def test_every_target_says_something_about_every_precision() -> None:
    assert set(CAPABILITIES) == set(TARGETS)
    for capable in CAPABILITIES.values():
        assert tuple(capable.precisions) == PRECISIONS
        assert set(capable.devices) <= {"cpu", "cuda"}
        assert not capable.precisions["fp32"]


@pytest.mark.parametrize("target", ["openvino", "trt", "onnx", "aoti"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_these_build_without_a_gpu(target: str, precision: str, no_gpu: None) -> None:
    require_capable(target, precision=precision, batch=RANGE)
    require_device(target)
    assert CAPABILITIES[target].builds_here() == ""


@pytest.mark.parametrize(("target", "precision"), [("openvino", "fp8"), ("aoti", "int8"), ("torch-trt", "fp8")])
def test_an_impossible_precision_says_why_and_what_instead(target: str, precision: str, no_gpu: None) -> None:
    with pytest.raises(ConfigError, match=rf"--target {target} cannot build --precision {precision}: .*use .*--target"):
        require_capable(target, precision=precision, batch=ONE)


def test_an_unknown_precision_names_the_known() -> None:
    with pytest.raises(ConfigError, match="cannot build --precision fp4: use one of fp32, fp16, bf16, int8, fp8"):
        require_capable("onnx", precision="fp4", batch=ONE)


def test_a_device_of_another_target() -> None:
    with pytest.raises(ConfigError, match="--target openvino does not build for --device cuda, only cpu"):
        require_capable("openvino", precision="fp32", batch=ONE, device="cuda")


@pytest.mark.parametrize(("target", "device"), [("torch-trt", ""), ("aoti", "cuda")])
def test_some_build_only_where_their_device_is(target: str, device: str, no_gpu: None) -> None:
    with pytest.raises(DeviceError, match=rf"--target {target} cannot build here: no CUDA device.*on a machine"):
        require_device(target, device)


def test_full_tensorrt_goes_before_the_one_that_builds_without(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(DeviceError, match="--target trt cannot build here: no CUDA device, and full TensorRT"):
        require_device("trt")


def test_with_a_device_they_do(stub_cuda: ctypes.CDLL) -> None:
    require_device("torch-trt")
    assert CAPABILITIES["trt"].executes_here() == ""
    assert ctypes.c_int.in_dll(stub_cuda, "stub_held").value == 0


def test_ranges_may_be_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = replace(CAPABILITIES["onnx"], dynamic_batch="shapes are fixed")
    monkeypatch.setattr(capabilities, "CAPABILITIES", {"onnx": limited})
    require_capable("onnx", precision="fp32", batch=ONE)
    with pytest.raises(ConfigError, match="--batch 1:8:64: shapes are fixed"):
        require_capable("onnx", precision="fp32", batch=RANGE)
