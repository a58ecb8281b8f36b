from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from kdcmae.compile.targets import trt as target
from kdcmae.compile.targets.trt import plan_kernels, plan_writer
from kdcmae.errors import DeviceError, EngineError
from kdcmae.runtime.tensorrt import import_tensorrt


def test_a_plan_is_written_as_it_is_made(tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    path = tmp_path / "engine.plan"
    with path.open("wb") as file:
        writer = plan_writer(import_tensorrt("tensorrt_rtx"), file)
        assert [writer.write(part) for part in (b"one ", b"plan")] == [4, 4]
    assert path.read_bytes() == b"one plan"
    assert writer.error is None


def test_a_full_disk_is_remembered():
    """It cannot pass through the library, which only hears that nothing was written."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    with open("/dev/full", "wb", buffering=0) as file:
        writer = plan_writer(import_tensorrt("tensorrt_rtx"), file)
        assert writer.write(b"plan") == 0
    assert writer.error.errno == errno.ENOSPC


class Inspected:
    """A TensorRT whose plans say of themselves what they hold; it loads none that is empty."""

    __version__ = "0"
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self):
        self.Runtime = lambda logger: self

    def deserialize_cuda_engine(self, plan):
        self.plan = plan
        return self if plan else None

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, format):
        assert format == "json"
        return self.plan.decode()


@pytest.fixture
def gpu(monkeypatch):
    closed = []
    device = SimpleNamespace(current=nullcontext, close=lambda: closed.append(True))
    monkeypatch.setattr(target, "Device", lambda ordinal: device)
    return closed


def layer(*formats):
    tensors = [{"Name": "t", "Dimensions": [1, 8], "Format/Datatype": text} for text in formats]
    return {"Name": "n", "LayerType": "gemm", "Inputs": tensors[:1], "Outputs": tensors[1:]}


def test_the_inspector_tells_what_the_kernels_of_a_plan_read_and_write(gpu, tmp_path):
    plan = tmp_path / "engine.plan"
    layers = [
        layer("Half", "Half"),
        layer("Int8", "Half"),
        layer("Row major linear FP16 format", "Row major linear FP32"),
        layer("BFloat16", "Float"),
        layer("Int64", "Bool"),
        "only a name",
    ]
    plan.write_text(json.dumps({"Layers": layers, "Bindings": []}))
    assert plan_kernels(Inspected(), None, plan) == {"fp16": 3, "int8": 1, "fp32": 2, "bf16": 1}
    plan.write_text("{}")
    assert plan_kernels(Inspected(), None, plan) == {}
    assert gpu == [True, True]


def test_a_plan_that_its_own_library_does_not_load(gpu, tmp_path):
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"")
    with pytest.raises(EngineError, match="cannot load the plan it built: out of memory"):
        plan_kernels(Inspected(), SimpleNamespace(reason=lambda: "out of memory"), plan)
    assert gpu == [True]


def test_without_a_gpu_no_plan_is_asked(fails, tmp_path):
    fails("kdcmae.compile.targets.trt.Device", DeviceError("none"))
    assert plan_kernels(Inspected(), None, tmp_path / "engine.plan") == {}
