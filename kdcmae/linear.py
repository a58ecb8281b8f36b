"""Linear layers that train faster on CPUs where oneDNN's float32 products are faster than the default BLAS."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdcmae import host

__all__ = ["Linear", "inference_products_by_onednn"]

_IN_INFERENCE: ContextVar[bool] = ContextVar("_IN_INFERENCE", default=False)


@contextmanager
def inference_products_by_onednn() -> Iterator[None]:
    """Within this context, :class:`Linear` computes the products of inference as it does those of training.

    Both are float32 products and differ in the order of their sums. Inference keeps the default BLAS otherwise, so that
    its outputs have the same last bits wherever they are computed with it.
    """
    token = _IN_INFERENCE.set(True)
    try:
        yield
    finally:
        _IN_INFERENCE.reset(token)


class Linear(nn.Linear):
    """``nn.Linear``; float32 training uses oneDNN's products on CPUs where MKL is slow.

    Inference does so within :func:`inference_products_by_onednn`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if (torch.is_grad_enabled() or _IN_INFERENCE.get()) and _is_float32_on_slow_cpu(x, self.weight):
            product: Tensor = _OneDnnLinear.apply(x, self.weight, self.bias)
            return product
        return F.linear(x, self.weight, self.bias)


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight.t()) if wants_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if wants_weight else None,
            rows.sum(dim=0) if wants_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, by the operator that torch.compile uses; there is no public one."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _is_float32_on_slow_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and _mkl_is_slow(_cpu_name())
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


_cpu_name = functools.cache(host.cpu_name)


def _mkl_is_slow(cpu_name: str) -> bool:
    """Whether oneDNN is faster than MKL. On Intel CPUs it takes up to twice as long.

    On AMD CPUs it is faster; both measured with ``kdcmae-bench kernels --device cpu --case step``.
    """
    return "Intel" not in cpu_name
