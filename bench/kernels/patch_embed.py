"""Masked patch embedding of both modalities and two views: fused, gathered before the GEMM, and dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from kdcmae import masking
from kdcmae.bench.kernels.case import TOLERANCE, Baseline, Case, Contender, Problem, Profile, kernel_obstacle
from kdcmae.bench.kernels.schema import Direction, Work
from kdcmae.bench.studies.published import dense_embed_patches
from kdcmae.kernels.patch_embed import reference

__all__ = ["patch_embed_cases"]

_PATCH, _VIEWS, _MASK_RATIO = 16, 2, 0.75
_GATHERED, _DENSE = "gather + GEMM", "dense, then gather"
_TARGETS: Mapping[str, Mapping[Direction, float]] = MappingProxyType(
    {_GATHERED: {"forward": 1.5, "backward": 1.0}, _DENSE: {"forward": 5.0}}
)


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """What :func:`kdcmae.ops.embed_patches` takes for one modality."""

    pixels: Tensor
    weight: Tensor
    bias: Tensor
    pos_embed: Tensor
    modality: Tensor
    ids_keep: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters that pretraining trains; positions are fixed."""
        return self.weight, self.bias, self.modality

    def solve(self, embed: Callable[..., Tensor]) -> Tensor:
        return embed(self.pixels, self.weight, self.bias, self.pos_embed, self.modality, self.ids_keep)

    def widened(self) -> _Arguments:
        """Copies in float64 with gradients of their own."""
        return _Arguments(
            pixels=self.pixels.double(),
            weight=self.weight.detach().double().requires_grad_(),
            bias=self.bias.detach().double().requires_grad_(),
            pos_embed=self.pos_embed.double(),
            modality=self.modality.detach().double().requires_grad_(),
            ids_keep=self.ids_keep,
        )


def patch_embed_cases(profile: Profile) -> Iterator[Case]:
    """Parameters in float32, as in pretraining, which makes float32 tokens; and parameters in the narrow dtype."""
    obstacle = kernel_obstacle(profile)
    absent = {"kernel": obstacle} if obstacle else {}
    for parameters in dict.fromkeys((torch.float32, profile.dtype)):
        problem = partial(_problem, profile, parameters, tuple(absent))
        yield Case(
            name=f"patch embedding, {str(parameters).removeprefix('torch.')} tokens",
            kind="patch-embedding",
            samples=profile.clips,
            dtype=profile.dtype,
            timed=problem,
            checked=problem,
            tolerance=TOLERANCE[profile.dtype],
            twice=None if profile.dtype == torch.float32 else _GATHERED,
            subjects=("kernel", _GATHERED),
            baselines=tuple(
                Baseline(name=name, among=(name,), targets=targets if profile.kernel_targets else {})
                for name, targets in _TARGETS.items()
            ),
            absent=absent,
            routed_to=None if obstacle else _route(profile),
            work=_work(profile, parameters),
        )


def _problem(profile: Profile, parameters: torch.dtype, absent: tuple[str, ...]) -> Problem:
    generator = profile.generator()
    modalities = [_random(profile, shape, parameters, generator) for shape in _shapes(profile)]
    solvers: dict[str, Callable[..., Tensor]] = {
        "kernel": _kernel,
        _GATHERED: reference.embed_patches,
        _DENSE: dense_embed_patches,
    }

    def contender(name: str) -> Contender:
        def forward() -> tuple[Tensor, ...]:
            with profile.autocast():
                return tuple(modality.solve(solvers[name]) for modality in modalities)

        leaves = tuple(leaf for modality in modalities for leaf in modality.leaves)
        return Contender(name=name, forward=forward, leaves=leaves, ours=name != _DENSE)

    grads = tuple(
        profile.randn(generator, *modality.ids_keep.shape, profile.dim, dtype=parameters).flatten(0, 1)
        for modality in modalities
    )
    return Problem(
        contenders=tuple(contender(name) for name in solvers if name not in absent),
        grads=grads,
        exact=partial(_exact, modalities, grads),
    )


def _shapes(profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Shapes of one spectrogram and of one image."""
    return profile.audio_shape, (3, profile.image_size, profile.image_size)


def _random(
    profile: Profile, shape: tuple[int, ...], parameters: torch.dtype, generator: torch.Generator
) -> _Arguments:
    channels, length = _sizes(shape)
    dim, scale = profile.dim, (channels * _PATCH**2) ** -0.5  # keeps tokens at unit variance
    draw = partial(profile.randn, generator)
    views = masking.complementary_views(profile.clips, length, _MASK_RATIO, _VIEWS, generator)
    return _Arguments(
        pixels=draw(profile.clips, *shape),
        weight=(scale * draw(dim, channels, _PATCH, _PATCH)).to(parameters).requires_grad_(),
        bias=draw(dim, dtype=parameters).requires_grad_(),
        pos_embed=draw(1, length, dim, dtype=parameters),
        modality=draw(1, 1, dim, dtype=parameters).requires_grad_(),
        ids_keep=torch.stack([view.ids_keep for view in views]),
    )


def _sizes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels, and number of patches."""
    return (1 if len(shape) == 2 else shape[0]), (shape[-2] // _PATCH) * (shape[-1] // _PATCH)


def _kernel(*arguments: Tensor) -> Tensor:
    """The Triton kernel, also where the table prefers the vendor's."""
    from kdcmae.kernels.patch_embed import op

    return op.fused_embed_patches(*arguments)


def _exact(modalities: list[_Arguments], grads: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    wide = [modality.widened() for modality in modalities]
    outputs = tuple(modality.solve(reference.embed_patches) for modality in wide)
    leaves = [leaf for modality in wide for leaf in modality.leaves]
    gradients = torch.autograd.grad(outputs, leaves, [grad.double() for grad in grads])
    return tuple(output.detach() for output in outputs), gradients


def _work(profile: Profile, parameters: torch.dtype) -> dict[Direction, Work]:
    """Forward reads kept pixels, parameters and ids, and writes tokens; backward reads pixels, ids and gradients."""
    forward, backward = Work(bytes=0, flop=0), Work(bytes=0, flop=0)
    for shape in _shapes(profile):
        channels, length = _sizes(shape)
        tokens = _VIEWS * profile.clips * masking.kept_count(length, _MASK_RATIO)
        patch, dim = channels * _PATCH**2, profile.dim
        reading = tokens * (4 * patch + 8)
        writing = tokens * dim * parameters.itemsize
        held = (patch + 2) * dim * parameters.itemsize
        flop = 2 * tokens * patch * dim
        forward += Work(bytes=reading + held + length * dim * parameters.itemsize + writing, flop=flop)
        backward += Work(bytes=reading + held + writing, flop=flop)
    return {"forward": forward, "backward": backward, "both": forward + backward}


def _route(profile: Profile) -> str:
    from kdcmae.kernels.patch_embed.launches import vendor_serves

    return "vendor" if vendor_serves(profile.device, profile.dtype) else "kernel"
