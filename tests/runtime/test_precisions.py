from __future__ import annotations

import onnx
import pytest

from kdcmae.runtime.openvino_library import import_openvino
from kdcmae.runtime.precisions import FLOATING, GATES, PRECISIONS, QUANTIZED, PrecisionRecord, gate_for, named
from kdcmae.runtime.tensorrt import import_tensorrt

RECORDS = pytest.mark.parametrize("record", PRECISIONS.values(), ids=lambda record: record.name)


@RECORDS
def test_torch_and_onnx_have_types_of_these_names_and_sizes(record: PrecisionRecord) -> None:
    dtype = getattr(pytest.importorskip("torch"), record.torch)
    assert dtype.itemsize == record.bytes_per_value
    assert dtype.is_floating_point == (record.name != "int8")
    assert record.onnx in onnx.TensorProto.DataType.keys()  # noqa: SIM118 an enum of protobuf, no mapping


@RECORDS
def test_openvino_has_types_of_these_names(record: PrecisionRecord) -> None:
    ov = import_openvino()
    types = {getattr(ov.Type, name).to_string(): getattr(ov.Type, name) for name in dir(ov.Type) if name[0] in "fbiu"
             and hasattr(getattr(ov.Type, name), "to_string")}  # fmt: skip
    assert {types[name].bitwidth for name in record.openvino} == {8 * record.bytes_per_value}


@RECORDS
def test_tensorrt_has_types_of_these_names(record: PrecisionRecord) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings") and import_tensorrt("tensorrt_rtx")
    assert getattr(trt.DataType, record.tensorrt).itemsize == record.bytes_per_value


@RECORDS
def test_the_largest_quantised_value_is_that_of_its_type(record: PrecisionRecord) -> None:
    if record.quantized:
        torch = pytest.importorskip("torch")
        dtype = getattr(torch, record.torch)
        limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        assert record.largest == limits.max
    assert record.quantized == (record.name in QUANTIZED) == (record.name not in FLOATING)


def test_a_library_names_are_looked_up_by() -> None:
    assert named("onnxruntime", FLOATING) == {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    assert named("openvino")["u8"] == "int8"


def test_gates_widen_in_the_order_of_the_precisions() -> None:
    cosines = [gate.min_cosine for gate in GATES.values()]
    assert cosines == sorted(cosines, reverse=True)
    assert gate_for({"fp16", "fp32"}) is PRECISIONS["fp16"].gate
