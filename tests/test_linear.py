"""A linear layer computes the same with either library."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kdcmae import linear
from kdcmae.linear import Linear, inference_products_by_onednn


class Called(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def build(dtype: torch.dtype = torch.float32) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(24, 40, dtype=dtype), torch.randn(2, 7, 24, dtype=dtype, requires_grad=True)


def trains_with_onednn(output: torch.Tensor) -> bool:
    return "OneDnn" in type(output.grad_fn).__name__


@pytest.fixture(autouse=True)
def not_intel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_cpu_name", lambda: "AMD EPYC")


@pytest.mark.parametrize(("cpu", "slow"), [("Intel(R) Xeon(R) Processor", False), ("AMD EPYC", True)])
def test_the_library_is_chosen_by_the_cpu(cpu, slow):
    assert linear._mkl_is_slow(cpu) is slow


def with_gradients(layer: Linear, x: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return output, *torch.autograd.grad(output.square().sum(), (x, layer.weight, layer.bias))


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("rows", [slice(None), slice(2, 5)])
def test_output_and_gradients_are_those_of_linear(rows):
    layer, whole = build()
    x = whole[:, rows]
    output = layer(x)
    assert trains_with_onednn(output)
    expected = with_gradients(layer, whole, F.linear(x, layer.weight, layer.bias))
    for found, right in zip(with_gradients(layer, whole, output), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_what_is_frozen_gets_no_gradient():
    layer, x = build()
    layer.weight.requires_grad_(False)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((40,), 14.0))


def test_other_numbers_and_inference_take_the_usual_way():
    layer, x = build()
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer, x = build(torch.float64)
    assert not trains_with_onednn(layer(x))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=0, atol=0)


def test_it_exports_as_linear():
    layer, x = build()
    graph = torch.export.export(layer, (x.detach(),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.linear.default]


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN")
def test_inference_takes_the_other_library_where_it_is_asked_for():
    layer, x = build()
    with torch.inference_mode(), Called() as called:
        with inference_products_by_onednn():
            output = layer(x)
        assert called.names == ["mkldnn::_linear_pointwise"]
        torch.testing.assert_close(output, layer(x), rtol=1e-5, atol=1e-5)
    assert called.names.count("mkldnn::_linear_pointwise") == 1
