"""Cases of the kernel benchmark: a problem, the contenders that solve it, and how they are compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcmae.bench.kernels.schema import Direction, Kind, Work
from kdcmae.bench.machine.clock import GRAPH_COLD, GRAPH_WARM, PLAIN_COLD, PLAIN_WARM, Condition

__all__ = ["TOLERANCE", "Baseline", "Case", "Contender", "Problem", "Profile", "each_tensor", "kernel_obstacle"]

Tensors = tuple[Tensor, ...]

TOLERANCE: Mapping[torch.dtype, float] = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-3}
"""RMS(error) / RMS(float64 reference) that one operation may have."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation that solves a problem.

    Args:
        name: unique in its case.
        forward: computes the outputs.
        leaves: what gets a gradient.
        ours: it is this project's code.
    """

    name: str
    forward: Callable[[], Tensors]
    leaves: Tensors
    ours: bool

    def gradients(self, outputs: Tensors, grads: Tensors, *, retain_graph: bool = False) -> Tensors:
        """Gradients of the leaves that have one, from those of the outputs."""
        gradients = torch.autograd.grad(outputs, self.leaves, grads, retain_graph=retain_graph, allow_unused=True)
        return tuple(gradient for gradient in gradients if gradient is not None)

    def call(self, direction: Direction, grads: Tensors) -> Callable[[], object]:
        """The call to time."""
        if direction == "forward":
            return self.forward
        if direction == "both":
            return lambda: self.gradients(self.forward(), grads)
        outputs = self.forward()
        return lambda: self.gradients(outputs, grads, retain_graph=True)


def each_tensor(outputs: Tensors, gradients: Tensors) -> Tensors:
    """Compare every output and every gradient on its own."""
    return (*outputs, *gradients)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Inputs, and the contenders bound to them.

    Args:
        contenders: all that can run here.
        grads: gradients of the outputs, one each.
        exact: outputs and gradients in float64.
        compared: the tensors to compare, from outputs and gradients.
    """

    contenders: tuple[Contender, ...]
    grads: Tensors
    exact: Callable[[], tuple[Tensors, Tensors]]
    compared: Callable[[Tensors, Tensors], Tensors] = each_tensor


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the subject is compared with.

    Args:
        name: in tables.
        among: contenders, of which the fastest counts.
        targets: how many times as fast the subject should be.
    """

    name: str
    among: tuple[str, ...]
    targets: Mapping[Direction, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the benchmark.

    Args:
        name, kind: in reports.
        samples: sequences or clips per call.
        dtype: of the matrix products.
        timed: builds the problem that is timed.
        checked: builds the problem that is checked: the same, or a smaller one where float64 would not fit.
        tolerance: RMS(error) / RMS(float64 reference) that passes.
        subjects: contenders the case is about; the first that was measured is compared with the baselines.
        baselines: to compare it with.
        absent: contenders that cannot run here, and why.
        directions: what is timed.
        conditions: under which it is timed, as far as the device's clock has them.
        twice: the subject's errors must also stay below twice those of this contender; None for no such bound.
        routed_to: what the kernels' table sends this case to.
        work: by direction.
        weight: share of the time the case gets, relative to others.
    """

    name: str
    kind: Kind
    samples: int
    dtype: torch.dtype
    timed: Callable[[], Problem]
    checked: Callable[[], Problem]
    tolerance: float
    subjects: tuple[str, ...]
    baselines: tuple[Baseline, ...]
    absent: Mapping[str, str]
    directions: tuple[Direction, ...] = ("forward", "backward", "both")
    conditions: tuple[Condition, ...] = (PLAIN_WARM, PLAIN_COLD, GRAPH_WARM, GRAPH_COLD)
    twice: str | None = None
    routed_to: str | None = None
    work: Mapping[Direction, Work] = field(default_factory=dict)
    weight: float = 1.0


_ENCODER_LENGTHS = (49, 128, 177, 196, 512, 708)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes, and the dtype of the matrix products. The defaults are the paper's, in the small batch of a CPU.

    Args:
        device: to run on.
        dtype: float32, or what autocast computes in.
        seed: of everything random.
        sequences: per attention call.
        attention: (length, heads, head size) of each attention case.
        clips: per patch embedding call.
        audio_shape: (frames, mel bins) of a clip.
        image_size: height and width of its frame.
        dim: width of the patch embedding.
        preset: of the model in the pretraining step.
        overrides: of that preset.
        step_clips: per pretraining step.
        kernel_targets: the kernels' targets hold at these sizes on this device.
        step_target: how many times as fast as the published formulation a step should be; None for no target.
        interpret: Triton's interpreter may stand in for a GPU.
        copy_bytes, matmul_side: sizes for the ceilings.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int
    sequences: int = 2
    attention: tuple[tuple[int, int, int], ...] = (*((length, 12, 64) for length in _ENCODER_LENGTHS), (708, 16, 32))
    clips: int = 2
    audio_shape: tuple[int, int] = (1024, 128)
    image_size: int = 224
    dim: int = 768
    preset: str = "base"
    overrides: Mapping[str, int] = field(default_factory=dict)
    step_clips: int = 2
    kernel_targets: bool = False
    step_target: float | None = 1.3
    interpret: bool = False
    copy_bytes: int = 1 << 28
    matmul_side: int = 1024

    def generator(self) -> torch.Generator:
        """A fresh, seeded source of random numbers on the device."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def randn(self, generator: torch.Generator, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal random numbers on the device."""
        return torch.randn(size, generator=generator, device=self.device, dtype=dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision every contender computes in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def kernel_obstacle(profile: Profile) -> str | None:
    """Why the Triton kernels cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if profile.device.type == "cuda":
        return None
    if not profile.interpret:
        return "needs a CUDA device"
    import triton

    return None if triton.knobs.runtime.interpret else "needs a CUDA device, or TRITON_INTERPRET=1"
