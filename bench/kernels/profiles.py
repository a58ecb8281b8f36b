"""The sizes of a run: the paper's on a GPU, a small batch of them on a CPU, and tiny ones to try everything."""

from __future__ import annotations

import torch

from kdcmae.bench.kernels.case import Profile
from kdcmae.bench.kernels.schema import Settings

__all__ = ["profile_for"]

_ENCODER_LENGTHS = (49, 128, 177, 196, 512, 708)
_ATTENTION = (*((length, 12, 64) for length in _ENCODER_LENGTHS), (708, 16, 32))
_QUICK_ATTENTION = ((49, 2, 64), (20, 2, 32))
_QUICK_MODEL = {
    "embed_dim": 64,
    "num_heads": 1,
    "specific_depth": 1,
    "decoder_embed_dim": 32,
    "decoder_num_heads": 1,
    "decoder_depth": 1,
    "audio_length": 32,
    "image_size": 32,
}


def profile_for(settings: Settings) -> Profile:
    """The sizes of a run."""
    device = torch.device(settings.device)
    on_gpu = device.type == "cuda"
    if settings.quick:
        return Profile(
            device=device,
            # The kernels' tables leave float32 to the vendor, and Triton's interpreter truncates to bfloat16.
            dtype=torch.bfloat16 if on_gpu else torch.float16,
            sequences=2,
            attention=_QUICK_ATTENTION,
            clips=1,
            audio_shape=(32, 128),
            image_size=32,
            dim=64,
            preset="tiny",
            overrides=_QUICK_MODEL,
            step_clips=2,
            kernel_targets=False,
            step_target=None,
            interpret=True,
            copy_bytes=1 << 20,
            matmul_side=64,
            seed=settings.seed,
        )
    return Profile(
        device=device,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        sequences=256 if on_gpu else 2,
        attention=_ATTENTION,
        clips=256 if on_gpu else 2,
        audio_shape=(1024, 128),
        image_size=224,
        dim=768,
        preset="base",
        overrides={},
        step_clips=_step_clips(device),
        kernel_targets=on_gpu,
        step_target=2.0 if on_gpu else 1.3,
        interpret=False,
        copy_bytes=1 << 30 if on_gpu else 1 << 28,
        matmul_side=8192 if on_gpu else 1024,
        seed=settings.seed,
    )


def _step_clips(device: torch.device) -> int:
    """The published batch where every path has the memory for it: the published one writes out its scores."""
    if device.type != "cuda":
        return 2
    return 48 if torch.cuda.get_device_properties(device).total_memory > 70e9 else 12
