from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.quantize.rows import join_short_blocks, split_short_blocks
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

WIDTH = 8


def layer(rows: int, *, samples: int = 1, rounded: bool = True, smooth: bool = True):
    """A wide layer as NNCF leaves it: rounded input, product, bias, GELU, scale, rounded result, next product."""
    ops = import_openvino().opset13
    generator = np.random.default_rng(0)

    def constant(*shape):
        return ops.constant(generator.standard_normal(shape, dtype=np.float32))

    def fake_quantize(value):
        return ops.fake_quantize(value, *(ops.constant(np.float32(bound)) for bound in (-4, 4, -4, 4)), 256)

    given = ops.parameter([samples, rows, WIDTH], np.float32)
    value = fake_quantize(given) if rounded else given
    value = ops.add(ops.matmul(value, constant(4 * WIDTH, WIDTH), False, True), constant(4 * WIDTH))
    value = ops.gelu(value, "erf")
    if smooth:
        value = ops.multiply(value, constant(1, 1, 4 * WIDTH))
    value = ops.matmul(fake_quantize(value), constant(WIDTH, 4 * WIDTH), False, True)
    return import_openvino().Model([value], [given])


def run(model, rows):
    inputs = np.random.default_rng(1).standard_normal((1, rows, WIDTH), dtype=np.float32)
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([inputs])[0]


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("rows", [65, 80, 196, 708])
def test_a_short_last_block_is_cut_off_and_nothing_changes(rows, smooth):
    model = layer(rows, smooth=smooth)
    before = run(model, rows)
    assert split_short_blocks(model) == 1
    parts = sorted(
        op.get_output_shape(0)[1]
        for op in model.get_ops()
        if op.get_type_name() == "MatMul" and op.get_output_shape(0)[2] == 4 * WIDTH
    )
    assert parts == [rows % 64, rows - rows % 64]
    different = np.abs(run(model, rows) - before) > 1e-3  # a sum in another order may round the other way
    assert different.mean() < 0.01


@pytest.mark.parametrize("smooth", [True, False])
def test_joining_undoes_the_cut(smooth):
    model = layer(196, smooth=smooth)
    before = run(model, 196)
    assert join_short_blocks(model) == 0
    split_short_blocks(model)
    assert join_short_blocks(model) == 1
    kinds = [op.get_type_name() for op in model.get_ordered_ops()]
    assert "VariadicSplit" not in kinds
    assert kinds.count("MatMul") == 2
    assert np.array_equal(run(model, 196), before)


@pytest.mark.parametrize("rows", [8, 64, 98, 128, 512])
def test_full_blocks_and_long_rests_stay_whole(rows):
    assert split_short_blocks(layer(rows)) == 0


def test_several_samples_and_floating_point_stay_whole():
    assert split_short_blocks(layer(196, samples=2)) == 0
    assert split_short_blocks(layer(196, rounded=False)) == 0
