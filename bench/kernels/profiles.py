"""The sizes of a run: the paper's on a GPU, a small batch of them on a CPU, and tiny ones to try everything."""

from __future__ import annotations

import torch

from kdcmae.bench.kernels.case import Profile
from kdcmae.bench.kernels.schema import Settings

__all__ = ["profile_for"]

_TINY_MODEL = {
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
            seed=settings.seed,
            attention=((49, 2, 64), (20, 2, 32)),
            clips=1,
            audio_shape=(32, 128),
            image_size=32,
            dim=64,
            preset="tiny",
            overrides=_TINY_MODEL,
            step_target=None,
            interpret=True,
            copy_bytes=1 << 20,
            matmul_side=64,
        )
    if not on_gpu:
        return Profile(device=device, dtype=torch.float32, seed=settings.seed)
    return Profile(
        device=device,
        dtype=torch.bfloat16,
        seed=settings.seed,
        sequences=256,
        clips=256,
        # The published batch where every path has the memory for it: the published one writes out its scores.
        step_clips=48 if torch.cuda.get_device_properties(device).total_memory > 70e9 else 12,
        kernel_targets=True,
        step_target=2.0,
        copy_bytes=1 << 30,
        matmul_side=8192,
    )
