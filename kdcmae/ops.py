"""The operations that have a Triton kernel, and the one setting that chooses between kernel and reference.

``auto`` (the default) takes the kernels for CUDA tensors where Triton is installed, and the plain PyTorch
references elsewhere: on other devices, in dtypes and for gradients that the kernels do not support,
and while exporting, because Python kernels do not load outside Python. ``triton`` forces the
kernels (on the CPU under ``TRITON_INTERPRET=1``), ``reference`` on the references.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from kdcmae.errors import ConfigError, MissingDependencyError
from kdcmae.extras import TRAIN
from kdcmae.kernels.attention import reference as attention_reference
from kdcmae.kernels.patch_embed import reference as patch_embed_reference

__all__ = ["Backend", "attention", "attention_ragged", "backend", "embed_patches", "set_backend", "use_backend"]

Backend = Literal["auto", "triton", "reference"]

_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
_backend: Backend = "auto"


def backend() -> Backend:
    """The current backend."""
    return _backend


def set_backend(name: Backend) -> None:
    """Choose the backend of every operation here, for the whole process.

    Args:
        name: ``auto``, ``triton`` or ``reference``.

    Raises:
        ConfigError: an unknown name.
        MissingDependencyError: ``triton`` where Triton is not installed.
    """
    global _backend
    if name not in get_args(Backend):
        raise ConfigError(f"backend={name!r} is unknown; use one of {', '.join(get_args(Backend))}")
    if name == "triton" and not _TRITON_INSTALLED:
        raise MissingDependencyError("triton", install=TRAIN)
    _backend = name


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Choose the backend for a ``with`` block; arguments and errors as in :func:`set_backend`."""
    before = _backend
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """Multi-head self-attention over sequences of one length, softmax scale ``head_size ** -0.5``.

    Args:
        qkv: (B, L, 3*D), the output of ``nn.Linear(D, 3*D)``.
        num_heads: divides D.

    Returns:
        (B, L, D) in the dtype of ``qkv``.

    Raises:
        ConfigError: backend ``triton``, and the kernels do not serve this device or dtype.
    """
    if _takes_kernel(qkv):
        from kdcmae.kernels.attention import op

        return op.attention(qkv, num_heads)
    return attention_reference.attention(qkv, num_heads)


def attention_ragged(qkv: Tensor, lengths: Sequence[int], num_heads: int) -> Tensor:
    """Multi-head self-attention over sequences of several lengths packed end to end.

    Args:
        qkv: (T, 3*D).
        lengths: of each sequence, known on the host; they sum to T.
        num_heads: divides D.

    Returns:
        (T, D) in the dtype of ``qkv``.

    Raises:
        ConfigError: ``lengths`` do not sum to T; or backend ``triton``, and the kernels do not serve this device
            or dtype.
    """
    if sum(lengths) != len(qkv):
        raise ConfigError(f"lengths sum to {sum(lengths)}, but qkv has {len(qkv)} rows; give one length per sequence")
    if _takes_kernel(qkv):
        from kdcmae.kernels.attention import op

        return op.attention_ragged(qkv, lengths, num_heads)
    return attention_reference.attention_ragged(qkv, lengths, num_heads)


def embed_patches(
    pixels: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None
) -> Tensor:
    """Patch weights, positions and modality over all patches, or over the kept patches of every view.

    Dtypes are those of ``F.linear`` and a sum: under autocast the product has the autocast dtype, and float32
    positions make float32 tokens. The kernel gives gradients to everything but ``pixels``; if ``pixels`` need
    one, ``auto`` takes the reference. Ids are not range-checked: that would stall the GPU.

    Args:
        pixels: (B, T, F) spectrogram, or (B, C, H, W) image; sides are multiples of p.
        weight: (D, C, p, p) convolution weight; for a spectrogram C = 1, kernel rows run over frequency and
            kernel columns over time.
        bias: (D,).
        pos_embed: (1, L, D), one row per patch, trimmed by the caller to the L patches of ``pixels``; patch
            id = row * columns + column, where a spectrogram's rows are frequency bands and its columns time steps.
        modality: (1, 1, D).
        ids_keep: (V, B, n) int64 kept patches of each view, or None for all patches in order.

    Returns:
        (V*B, n, D), view-major; (B, L, D) without ``ids_keep``.

    Raises:
        ConfigError: shapes or dtypes that do not fit each other; or backend ``triton``, and the kernels do not
            serve this device, dtype or gradient.
    """
    _check_patches(pixels, weight, pos_embed, ids_keep)
    if _takes_kernel(pixels, gradient=False):
        from kdcmae.kernels.patch_embed import op

        return op.embed_patches(pixels, weight, bias, pos_embed, modality, ids_keep)
    return patch_embed_reference.embed_patches(pixels, weight, bias, pos_embed, modality, ids_keep)


def _takes_kernel(data: Tensor, *, gradient: bool = True) -> bool:
    """Whether the kernel runs on ``data``; ``gradient`` says whether it differentiates with respect to it."""
    if _backend == "reference":
        return False
    obstacle = _obstacle(data, gradient)
    if _backend == "triton" and obstacle:
        raise ConfigError(f"backend='triton' cannot run on {obstacle}; use backend 'auto' or 'reference'")
    return not obstacle and (_backend == "triton" or not torch.compiler.is_exporting())


def _obstacle(data: Tensor, gradient: bool) -> str | None:
    """Why the kernels do not serve ``data``, or None."""
    if data.dtype not in _KERNEL_DTYPES:
        return f"{data.dtype} data"
    if not gradient and data.requires_grad and torch.is_grad_enabled():
        return "input that wants a gradient"
    if data.device.type == "cuda":
        return None if _TRITON_INSTALLED else "a machine without Triton"
    if _backend == "triton" and data.device.type == "cpu":
        return None if _triton_interprets() else "the CPU without TRITON_INTERPRET=1"
    return f"device {data.device.type!r}"


@torch.compiler.assume_constant_result
def _triton_interprets() -> bool:
    import triton

    return triton.knobs.runtime.interpret


def _check_patches(pixels: Tensor, weight: Tensor, pos_embed: Tensor, ids_keep: Tensor | None) -> None:
    patch_size = weight.shape[-1]
    sides = pixels.shape[-2:]
    known = pixels.ndim in (3, 4) and weight.shape[1] == (1 if pixels.ndim == 3 else pixels.shape[1])
    if not known or any(side % patch_size for side in sides):
        raise ConfigError(
            f"pixels {tuple(pixels.shape)} do not fit patch weights {tuple(weight.shape)}; give a spectrogram "
            f"(batch, frames, mel bins) or an image (batch, channels, height, width) with sides a multiple of "
            f"{patch_size}"
        )
    patches = (sides[0] // patch_size) * (sides[1] // patch_size)
    if pos_embed.shape[1] != patches:
        raise ConfigError(
            f"pos_embed {tuple(pos_embed.shape)} has {pos_embed.shape[1]} positions, but pixels "
            f"{tuple(pixels.shape)} have {patches} patches; trim or interpolate the table"
        )
    if pixels.dtype != weight.dtype and not torch.is_autocast_enabled(pixels.device.type):
        raise ConfigError(f"pixels are {pixels.dtype} and patch weights {weight.dtype}; convert one or use autocast")
    if ids_keep is not None and (ids_keep.ndim != 3 or ids_keep.shape[1] != pixels.shape[0]):
        raise ConfigError(
            f"ids_keep {tuple(ids_keep.shape)} must be (views, batch, kept) with batch {len(pixels)}, as in pixels"
        )
