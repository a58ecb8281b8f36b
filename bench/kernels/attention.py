"""Attention: our kernel against PyTorch's choice and against every vendor backend by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdcmae.bench.kernels.case import TOLERANCE, Baseline, Case, Contender, Problem, Profile, kernel_obstacle
from kdcmae.bench.kernels.schema import Direction, Work
from kdcmae.kernels.attention import reference

__all__ = ["attention_cases"]

_VENDORS: Mapping[str, tuple[SDPBackend, tuple[str, ...]]] = MappingProxyType(
    {
        "cudnn": (SDPBackend.CUDNN_ATTENTION, ("cuda",)),
        "flash": (SDPBackend.FLASH_ATTENTION, ("cuda", "cpu")),
        "efficient": (SDPBackend.EFFICIENT_ATTENTION, ("cuda",)),
        "math": (SDPBackend.MATH, ("cuda", "cpu")),
    }
)
_TARGETS: Mapping[int, Mapping[Direction, float]] = MappingProxyType(
    {
        49: {"forward": 1.3, "backward": 2.0},
        128: {"forward": 1.0, "backward": 1.7},
        177: {"forward": 1.1, "backward": 1.5},
        196: {"forward": 1.1, "backward": 1.5},
    }
)
"""By length, against the best vendor backend; longer sequences go to the vendor's anyway."""

_CHUNK_BYTES = 1 << 30  # of float64 scores


def attention_cases(profile: Profile) -> Iterator[Case]:
    """One case per length, number of heads and head size."""
    for length, heads, head_size in profile.attention:
        obstacle = kernel_obstacle(profile)
        absent = {"kernel": obstacle} if obstacle else {}
        for name, (_, devices) in _VENDORS.items():
            if profile.device.type not in devices:
                absent[name] = "needs a CUDA device"
        problem = partial(_problem, profile, length, heads, head_size, tuple(absent))
        yield Case(
            name=f"attention, length {length}, {heads} heads of {head_size}",
            kind="attention",
            samples=profile.sequences,
            dtype=profile.dtype,
            timed=problem,
            checked=problem,
            tolerance=TOLERANCE[profile.dtype],
            twice=None if profile.dtype == torch.float32 else "reference",
            subjects=("kernel",),
            baselines=(
                Baseline(
                    name="best vendor",
                    among=tuple(_VENDORS),
                    targets=_TARGETS.get(length, {}) if profile.kernel_targets else {},
                ),
            ),
            absent=absent,
            routed_to=None if obstacle else _route(profile, length),
            work=_work(profile, length, heads * head_size),
        )


def _problem(profile: Profile, length: int, heads: int, head_size: int, absent: tuple[str, ...]) -> Problem:
    """Random packed queries, keys and values (B, L, 3*D), and a random gradient (B, L, D)."""
    width = heads * head_size
    generator = profile.generator()
    qkv = profile.randn(generator, profile.sequences, length, 3 * width, dtype=profile.dtype).requires_grad_()
    grad = profile.randn(generator, profile.sequences, length, width, dtype=profile.dtype)
    solvers: dict[str, Callable[[Tensor, int], Tensor]] = {"kernel": _kernel, "reference": reference.attention}
    solvers |= {name: partial(_vendor, backend) for name, (backend, _) in _VENDORS.items()}

    def contender(name: str) -> Contender:
        return Contender(
            name=name,
            forward=lambda: (solvers[name](qkv, heads),),
            leaves=(qkv,),
            ours=name in ("kernel", "reference"),
        )

    return Problem(
        contenders=tuple(contender(name) for name in solvers if name not in absent),
        grads=(grad,),
        exact=partial(_exact, qkv.detach(), grad, heads),
    )


def _kernel(qkv: Tensor, heads: int) -> Tensor:
    """The Triton kernel, also where the table prefers the vendor's: that is what the table is made from."""
    from kdcmae.kernels.attention import op

    batch, length, _ = qkv.shape
    return op.attention_forward(qkv.flatten(0, 1), [length, batch], heads)[0].unflatten(0, (batch, length))


def _vendor(backend: SDPBackend, qkv: Tensor, heads: int) -> Tensor:
    with sdpa_kernel(backend):
        return reference.attention(qkv, heads)


def _exact(qkv: Tensor, grad: Tensor, heads: int) -> tuple[tuple[Tensor], tuple[Tensor]]:
    """Output and gradient in float64, a few sequences at a time."""
    chunk = max(1, _CHUNK_BYTES // (8 * heads * qkv.shape[1] ** 2))
    outputs, gradients = [], []
    for part, part_grad in zip(qkv.split(chunk), grad.split(chunk), strict=True):
        wide = part.double().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            output = reference.attention(wide, heads)
        gradients += torch.autograd.grad(output, wide, part_grad.double())
        outputs.append(output.detach())
    return (torch.cat(outputs),), (torch.cat(gradients),)


def _work(profile: Profile, length: int, width: int) -> dict[Direction, Work]:
    """Forward reads q, k, v and writes the output; backward reads those four and its gradient, and writes three."""
    array_bytes = profile.sequences * length * width * profile.dtype.itemsize
    product_flop = 2 * profile.sequences * length**2 * width
    forward = Work(bytes=4 * array_bytes, flop=2 * product_flop)
    backward = Work(bytes=8 * array_bytes, flop=5 * product_flop)
    return {"forward": forward, "backward": backward, "both": forward + backward}


def _route(profile: Profile, length: int) -> str:
    from kdcmae.kernels.attention.launches import vendor_length

    return "vendor" if length >= vendor_length(profile.device, profile.dtype) else "kernel"
