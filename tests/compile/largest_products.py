"""Products of the largest bytes, one per library, for a processor or an emulated one: ``python this.py LIBRARY``.

Every sum of two products is 2 * 255 * weight for unsigned activations: 64770 for weights of 127, twice what 16 bits
hold. Prints the results as JSON: by activations and weights, over the exact result.
"""

from __future__ import annotations

import json
import sys

import numpy as np

ROWS, DEPTH, COLUMNS = 64, 256, 64
LARGEST = {"u8": 255, "i8": 127}


def openvino_product(activations: str, weight: int) -> float:
    import openvino
    from openvino import opset13 as ops

    high = LARGEST[activations]
    bounds = [ops.constant(np.float32(value)) for value in (high - 255, high) * 2]
    inputs = ops.parameter([ROWS, DEPTH], np.float32, name="x")
    stored = ops.convert(ops.constant(np.full((DEPTH, COLUMNS), weight, np.int8)), np.float32)
    scaled = ops.multiply(stored, ops.constant(np.ones((1, COLUMNS), np.float32)))
    product = ops.matmul(ops.fake_quantize(inputs, *bounds, 256), scaled, False, False)
    model = openvino.Model([ops.result(product)], [inputs], "product")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(compiled([np.full((ROWS, DEPTH), high, np.float32)])[0][0, 0]) / (high * weight * DEPTH)


def onnx_product(activations: str, weight: int, zero: int = 0) -> float:
    """Weights with a zero point are unsigned."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    high = LARGEST[activations]
    kinds = {"u8": np.uint8, "i8": np.int8}
    stored = np.uint8 if zero else np.int8
    tensors = {
        "scale": np.float32(1),
        "zero": kinds[activations](0),
        "weight": np.full((DEPTH, COLUMNS), weight + zero, stored),
        "scales": np.ones(COLUMNS, np.float32),
        "zeros": np.full(COLUMNS, zero, stored),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["b"], axis=1),
        helper.make_node("MatMul", ["a", "b"], ["y"]),
    ]
    shapes = {"x": (ROWS, DEPTH), "y": (ROWS, COLUMNS)}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "product", [x], [y], [numpy_helper.from_array(v, k) for k, v in tensors.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = session.run(None, {"x": np.full(shapes["x"], high, np.float32)})[0]
    return float(result[0, 0]) / (high * weight * DEPTH)


if __name__ == "__main__":
    found = {}
    for activations in LARGEST:
        for weight in (127, 64):
            if sys.argv[1] == "openvino":
                found[f"{activations} {weight}"] = openvino_product(activations, weight)
            else:
                found[f"{activations} {weight}"] = onnx_product(activations, weight)
                found[f"{activations} {weight} unsigned"] = onnx_product(activations, weight, zero=128)
    sys.stdout.write(json.dumps(found))
