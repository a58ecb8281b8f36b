from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import pytest

from kdcmae.errors import ConfigError, DeviceError
from kdcmae.runtime.capabilities import (
    executed_as,
    execution_differences,
    fastest_floating,
    not_native,
    require_capable,
    require_device,
    require_native,
)
from kdcmae.runtime.cpu import CLASSES, Cpu, describe_cpu, this_cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.targets import TARGETS


@pytest.mark.parametrize("target", ["openvino", "trt", "onnx", "aoti"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_these_build_without_a_gpu(target: str, precision: str, no_gpu: None) -> None:
    require_capable(target, precision=precision)
    require_device(target)
    assert TARGETS[target].cannot_build_here() == ""


@pytest.mark.parametrize(("target", "precision"), [("openvino", "fp8"), ("aoti", "int8"), ("torch-trt", "fp8")])
def test_an_impossible_precision_says_why_and_what_instead(target: str, precision: str, no_gpu: None) -> None:
    with pytest.raises(ConfigError, match=rf"--target {target} cannot build --precision {precision}: .*use .*--target"):
        require_capable(target, precision=precision)


def test_an_unknown_precision_names_the_known() -> None:
    with pytest.raises(ConfigError, match="cannot build --precision fp4: use one of fp32, fp16, bf16, int8, fp8"):
        require_capable("onnx", precision="fp4")


def test_a_device_of_another_target() -> None:
    with pytest.raises(ConfigError, match="--target openvino does not build for --device cuda, only cpu"):
        require_capable("openvino", precision="fp32", device="cuda")


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
    assert TARGETS["trt"].cannot_execute_here() == ""
    assert ctypes.c_int.in_dll(stub_cuda, "stub_held").value == 0


# What OpenVINO executes for fp16 and bf16, by CPU class.
OPENVINO = {
    "avx2": ("fp32", "fp32"),
    "avx2-vnni": ("fp32", "fp32"),
    "avx512": ("fp32", "fp32"),
    "avx512-bf16": ("bf16", "bf16"),
    "amx": ("bf16", "bf16"),
    "arm64": ("fp32", "fp32"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_what_executes_follows_from_the_processor_alone(name: str) -> None:
    cpu = describe_cpu(name)
    asked = dict(zip(("fp16", "bf16"), OPENVINO[name], strict=True))
    assert {precision: executed_as("openvino", precision, cpu=cpu) for precision in asked} == asked
    assert executed_as("openvino", "int8", cpu=cpu) == "int8"
    assert not_native("onnx", cpu=cpu) == ({} if name == "arm64" else {"fp16": "fp32"})
    assert not_native("trt", cpu=cpu) == {}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("target", TARGETS)
def test_the_fastest_floating_precision_executes_as_such(name: str, target: str) -> None:
    cpu = describe_cpu(name)
    precision, because = fastest_floating(target, cpu=cpu)
    assert executed_as(target, precision, cpu=cpu) == precision
    assert because


@pytest.mark.parametrize(
    ("target", "device", "name", "precision"),
    [
        ("openvino", "", "amx", "bf16"),
        ("openvino", "", "avx512", "fp32"),
        ("onnx", "", "amx", "fp32"),
        ("aoti", "", "avx512-bf16", "bf16"),
        ("aoti", "cpu", "avx2", "fp32"),
        ("aoti", "cuda", "avx2", "fp16"),
        ("trt", "", "avx2", "fp16"),
    ],
)
def test_the_fastest_floating_precision(target: str, device: str, name: str, precision: str) -> None:
    assert fastest_floating(target, cpu=describe_cpu(name), device=device)[0] == precision


def test_arm_with_half_precision_is_given_it() -> None:
    cpu = Cpu(machine="aarch64", features=frozenset({"asimd", "asimdhp"}), name="Neoverse-N1")
    precision, because = fastest_floating("openvino", cpu=cpu)
    assert precision == "fp16"
    assert because == "Neoverse-N1 (arm64) multiplies no faster floating precision natively"


def test_a_precision_that_does_not_execute_is_accepted_by_the_name_of_what_does() -> None:
    cpu = describe_cpu("amx")
    asked = {"precision": "fp16", "cpu": cpu}
    for accepted in ("", "fp32"):
        with pytest.raises(
            DeviceError, match="executes as bf16 on a CPU of class amx; use --precision bf16, or accept"
        ):
            require_native("openvino", execute_as=accepted, **asked)
    require_native("openvino", execute_as="bf16", **asked)


def test_nothing_can_take_the_place_of_what_executes() -> None:
    with pytest.raises(ConfigError, match="--execute-as fp32 cannot act, --precision bf16 executes as such"):
        require_native("openvino", precision="bf16", execute_as="fp32", cpu=describe_cpu("amx"))


@pytest.mark.parametrize(("target", "possible"), [("openvino", True), ("onnx", True), ("aoti", False), ("trt", False)])
def test_engines_for_another_processor(target: str, possible: bool) -> None:
    asked = {"precision": "fp32"}
    require_capable(target, cpu=this_cpu(), **asked)
    if possible:
        require_capable(target, cpu=describe_cpu("avx2"), **asked)
    else:
        with pytest.raises(ConfigError, match=f"--target {target} cannot build --for: "):
            require_capable(target, cpu=describe_cpu("avx2"), **asked)


@pytest.mark.parametrize(
    ("built_for", "here", "differs"),
    [
        ("amx", "avx2", True),
        ("avx2-vnni", "avx512", True),
        ("avx2", "avx2", False),
        ("avx2", "amx", False),
        ("amx", "arm64", False),
    ],
)
@pytest.mark.parametrize("reported", [True, False])
def test_integer_products_that_saturate_here_alone_are_a_difference(reported, built_for, here, differs):
    precision = {"asked": "int8", "built_for": describe_cpu(built_for).to_dict(), "claims": []}
    execution = Execution(executed={"MatMul": {"int8": 1}} if reported else {})
    found = execution_differences(
        SimpleNamespace(target="onnx", precision=precision), execution, cpu=describe_cpu(here)
    )
    assert [difference.partition(",")[0] for difference in found] == ["products in int8 saturate"] * differs
    assert not execution_differences(
        SimpleNamespace(target="onnx", precision={**precision, "asked": "fp32"}), execution, cpu=describe_cpu(here)
    )


@pytest.mark.parametrize("built_for", [None, "amx", {}, {"features": "avx2"}, {"features": [1], "machine": 2}])
def test_a_manifest_that_does_not_say_what_it_is_for_tells_of_no_saturation(built_for):
    manifest = SimpleNamespace(target="onnx", precision={"asked": "int8", "built_for": built_for, "claims": []})
    assert execution_differences(manifest, Execution(), cpu=describe_cpu("avx2")) == []
