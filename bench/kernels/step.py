"""The whole pretraining step, forward and backward, without the optimiser: our paths and the published one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from kdcmae import KDCMAE, ops
from kdcmae.bench.kernels.case import Baseline, Case, Contender, Problem, Profile, kernel_obstacle
from kdcmae.bench.machine.clock import PLAIN_WARM
from kdcmae.bench.studies.published import PublishedKDCMAE, explicit_attention, fused_attention
from kdcmae.pretraining import MaskedPair, PretrainingOutput

__all__ = ["step_cases"]

_KERNELS, _REFERENCE = "kernels", "reference"
_PUBLISHED, _PUBLISHED_FUSED = "published", "published, fused attention"
_CHECKED_CLIPS = 2  # float64 activations of a whole batch would not fit
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the loss and the whole gradient


def step_cases(profile: Profile, *, compiled: bool) -> Iterator[Case]:
    """One case: the base model's loss and gradients over two views.

    Args:
        profile: sizes and dtype.
        compiled: run every path through ``torch.compile``.
    """
    obstacle = kernel_obstacle(profile)
    absent = {_KERNELS: obstacle} if obstacle else {}
    yield Case(
        name=f"pretraining step, {profile.preset}, two views{', torch.compile' if compiled else ''}",
        kind="step",
        samples=profile.step_clips,
        dtype=profile.dtype,
        directions=("both",),
        conditions=(PLAIN_WARM,),
        timed=partial(_problem, profile, profile.step_clips, tuple(absent), compiled),
        checked=partial(_problem, profile, min(_CHECKED_CLIPS, profile.step_clips), tuple(absent), False),
        tolerance=_TOLERANCE[profile.dtype],
        subjects=(_KERNELS, _REFERENCE),
        baselines=(
            Baseline(name=_REFERENCE, among=(_REFERENCE,)),
            Baseline(
                name=_PUBLISHED,
                among=(_PUBLISHED,),
                targets={"both": profile.step_target} if profile.step_target else {},
            ),
            Baseline(name=_PUBLISHED_FUSED, among=(_PUBLISHED_FUSED,)),
        ),
        absent=absent,
        weight=4.0,
    )


def _problem(profile: Profile, clips: int, absent: tuple[str, ...], compiled: bool) -> Problem:
    torch.manual_seed(profile.seed)
    model = KDCMAE.from_preset(profile.preset, **profile.overrides).to(profile.device)
    generator = profile.generator()
    config = model.config
    audio = profile.randn(generator, clips, config.audio_length, config.mel_bins)
    image = profile.randn(generator, clips, 3, config.image_size, config.image_size)
    pairs = model.sample_pairs(audio, generator)
    paths: dict[str, tuple[KDCMAE, ops.Backend]] = {
        _KERNELS: (model, "triton"),
        _REFERENCE: (model, "reference"),
        _PUBLISHED: (PublishedKDCMAE.sharing(model, explicit_attention), "reference"),
        _PUBLISHED_FUSED: (PublishedKDCMAE.sharing(model, fused_attention), "reference"),
    }

    def contender(name: str) -> Contender:
        network, backend = paths[name]
        run: Callable[..., PretrainingOutput] = torch.compile(network) if compiled else network

        def forward() -> tuple[Tensor, ...]:
            with ops.use_backend(backend), profile.autocast():
                return (run(audio, image, pairs=pairs).loss,)

        return Contender(name=name, forward=forward, leaves=_leaves(network), ours=name in (_KERNELS, _REFERENCE))

    return Problem(
        contenders=tuple(contender(name) for name in paths if name not in absent),
        grads=(torch.ones((), device=profile.device),),
        exact=partial(_exact, model, audio, image, pairs),
        compared=_loss_and_gradient,
    )


def _leaves(model: nn.Module) -> tuple[Tensor, ...]:
    return tuple(parameter for _, parameter in sorted(model.named_parameters()) if parameter.requires_grad)


def _loss_and_gradient(outputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The loss, and all gradients as one vector: some of them are close to zero on their own."""
    return (*outputs, torch.cat([gradient.flatten() for gradient in gradients]))


def _exact(
    model: KDCMAE, audio: Tensor, image: Tensor, pairs: list[MaskedPair]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    wide = copy.deepcopy(model).double()
    with ops.use_backend("reference"):
        loss = wide(audio.double(), image.double(), pairs=pairs).loss
    gradients = torch.autograd.grad(loss, _leaves(wide), allow_unused=True)
    return (loss.detach(),), tuple(gradient for gradient in gradients if gradient is not None)
