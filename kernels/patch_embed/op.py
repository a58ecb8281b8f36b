"""Masked patch embedding by Triton, registered with PyTorch: fake tensors, autograd, ``torch.compile``.

Gradients go to the weight, the bias, the modality and, where they train, the positions; never to the pixels.
Backward gathers the patches once more rather than keep them, multiplies through cuBLAS, and sums in a fixed
order: the same bits every run. Ids must lie in [0, L); nothing checks them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from kdcmae.kernels.patch_embed import reference
from kdcmae.kernels.patch_embed.kernel import embed_kernel, gather_kernel, sum_kernel
from kdcmae.kernels.patch_embed.launches import GATHER, SUM, column_block, geometry, tiling, vendor_serves

__all__ = ["embed_patches", "fused_embed_patches", "gather_patches", "sum_by_patch"]


def embed_patches(
    pixels: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None
) -> Tensor:
    """:func:`fused_embed_patches`, or the reference for dtypes that the device's table leaves to the vendor."""
    if _vendor_serves(pixels.device, _product_dtype(weight)):
        return reference.embed_patches(pixels, weight, bias, pos_embed, modality, ids_keep)
    return fused_embed_patches(pixels, weight, bias, pos_embed, modality, ids_keep)


def fused_embed_patches(
    pixels: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None
) -> Tensor:
    """:func:`kdcmae.kernels.patch_embed.reference.embed_patches` by Triton.

    The product, the bias, the position and the modality are summed in float32 and rounded once. Under autocast
    only the weight is converted beforehand; the pixels are, as the kernel reads them.
    """
    matrix = reference.weight_matrix(weight, pixels.ndim).to(_product_dtype(weight))
    dtype = torch.promote_types(matrix.dtype, torch.promote_types(pos_embed.dtype, modality.dtype))
    offset = bias.float() + modality.flatten().float()
    return _embed(pixels, matrix, offset, pos_embed.squeeze(0).to(dtype), ids_keep, weight.shape[-1])


def _product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which ``F.linear`` would multiply."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


@torch.compiler.assume_constant_result
def _vendor_serves(device: torch.device, dtype: torch.dtype) -> bool:
    return vendor_serves(device, dtype)


@torch.library.custom_op("kdcmae::embed_patches", mutates_args=())
def _embed(
    pixels: Tensor, matrix: Tensor, offset: Tensor, positions: Tensor, ids_keep: Tensor | None, patch_size: int
) -> Tensor:
    """Tokens (V*B, n, D) in the dtype of ``positions``: matrix @ pixels + offset + positions[ids].

    Args:
        pixels: (B, T, F) or (B, C, H, W).
        matrix: (D, K), in the pixel order of :func:`~kdcmae.kernels.patch_embed.reference.patch_grid`.
        offset: (D,) float32.
        positions: (L, D).
        ids_keep: (V, B, n) int64, or None.
        patch_size: p.
    """
    pixels, matrix = pixels.contiguous(), matrix.contiguous()
    dim = len(offset)
    tokens = positions.new_empty(*_sequences(pixels, ids_keep, patch_size), dim)
    rows = tokens.shape[0] * tokens.shape[1]
    row = tiling(pixels.device, pixels.dtype, matrix.dtype)
    block_n = column_block(row, dim)
    with torch.cuda.device_of(pixels):
        embed_kernel[(triton.cdiv(rows, row.rows) * triton.cdiv(dim, block_n),)](
            pixels,
            matrix,
            offset.contiguous(),
            positions.contiguous(),
            None if ids_keep is None else ids_keep.contiguous(),
            tokens,
            rows,
            tokens.shape[1],
            len(pixels),
            **geometry(pixels, patch_size),
            D=dim,
            PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
            UPCAST=triton.knobs.runtime.interpret and matrix.dtype == torch.bfloat16,
            BLOCK_M=row.rows,
            BLOCK_N=block_n,
            BLOCK_K=row.step,
            num_warps=row.num_warps,
            num_stages=row.num_stages,
        )
    return tokens


@torch.library.custom_op("kdcmae::gather_patches", mutates_args=())
def gather_patches(pixels: Tensor, ids_keep: Tensor | None, patch_size: int, dtype: torch.dtype) -> Tensor:
    """The kept patches' pixels, (V*B, n, K) in ``dtype``; without ids all patches, (B, L, K)."""
    pixels = pixels.contiguous()
    where = geometry(pixels, patch_size)
    patches = pixels.new_empty(*_sequences(pixels, ids_keep, patch_size), where["K"], dtype=dtype)
    rows = patches.shape[0] * patches.shape[1]
    with torch.cuda.device_of(pixels):
        gather_kernel[triton.cdiv(rows, GATHER["BLOCK_M"]), triton.cdiv(where["K"], GATHER["BLOCK_K"])](
            pixels,
            None if ids_keep is None else ids_keep.contiguous(),
            patches,
            rows,
            patches.shape[1],
            len(pixels),
            **where,
            **GATHER,
        )
    return patches


@torch.library.custom_op("kdcmae::sum_by_patch", mutates_args=())
def sum_by_patch(grad: Tensor, ids_keep: Tensor, length: int) -> Tensor:
    """Rows of ``grad`` (V*B, n, D) summed by their patch id, in float32: (length, D) in the dtype of ``grad``."""
    ids, order = ids_keep.flatten().sort(stable=True)
    starts = torch.searchsorted(ids, torch.arange(length + 1, device=ids.device))
    dim = grad.shape[-1]
    total = grad.new_empty(length, dim)
    with torch.cuda.device_of(grad):
        sum_kernel[length, triton.cdiv(dim, SUM["BLOCK_N"])](grad.contiguous(), order, starts, total, D=dim, **SUM)
    return total


@_embed.register_fake
def _(
    pixels: Tensor, matrix: Tensor, offset: Tensor, positions: Tensor, ids_keep: Tensor | None, patch_size: int
) -> Tensor:
    return positions.new_empty(*_sequences(pixels, ids_keep, patch_size), len(offset))


@gather_patches.register_fake
def _(pixels: Tensor, ids_keep: Tensor | None, patch_size: int, dtype: torch.dtype) -> Tensor:
    channels = 1 if pixels.ndim == 3 else pixels.shape[1]
    return pixels.new_empty(*_sequences(pixels, ids_keep, patch_size), channels * patch_size**2, dtype=dtype)


@sum_by_patch.register_fake
def _(grad: Tensor, ids_keep: Tensor, length: int) -> Tensor:
    return grad.new_empty(length, grad.shape[-1])


def _sequences(pixels: Tensor, ids_keep: Tensor | None, patch_size: int) -> tuple[int, int]:
    """Number of sequences, and their length."""
    if ids_keep is None:
        return len(pixels), (pixels.shape[-2] // patch_size) * (pixels.shape[-1] // patch_size)
    views, batch, kept = ids_keep.shape
    return views * batch, kept


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pixels, matrix, _, positions, ids_keep, ctx.patch_size = inputs
    ctx.save_for_backward(pixels, ids_keep)
    ctx.matrix_dtype, ctx.length = matrix.dtype, len(positions)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[0]:
        raise NotImplementedError("the Triton patch embedding gives no gradient for pixels; use the reference")
    pixels, ids_keep = ctx.saved_tensors
    _, needs_matrix, needs_offset, needs_positions, *_ = ctx.needs_input_grad
    rows = grad.flatten(0, 1)
    matrix = offset = positions = None
    if needs_matrix:
        patches = gather_patches(pixels, ids_keep, ctx.patch_size, ctx.matrix_dtype)
        matrix = rows.to(ctx.matrix_dtype).T @ patches.flatten(0, 1)
    if needs_offset:
        offset = rows.sum(dim=0, dtype=torch.float32)
    if needs_positions:
        positions = grad.sum(dim=0) if ids_keep is None else sum_by_patch(grad, ids_keep, ctx.length)
    return None, matrix, offset, positions, None, None


_embed.register_autograd(_differentiate, setup_context=_keep)
