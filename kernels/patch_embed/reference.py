"""Patch embedding in plain PyTorch: the definition the kernel is held to, and the path every CPU takes.

The visible patches' pixels are gathered first, all views at once, and meet the patch weight in one GEMM: with
three quarters of the patches masked, a dense convolution would throw most of its work away.

Shapes: B samples, V views, n kept patches, L patches, p patch side, K = C * p * p pixels per patch, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["embed_patches", "gather_patches", "patch_grid", "weight_matrix"]


def embed_patches(
    pixels: Tensor, weight: Tensor, bias: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None
) -> Tensor:
    """Patch weights, positions and modality over all patches, or over the kept patches of every view.

    Dtypes are those of ``F.linear`` and a sum: under autocast the product has the autocast dtype, and float32
    positions make float32 tokens.

    Args:
        pixels: (B, T, F) spectrogram, or (B, C, H, W) image; sides are multiples of p.
        weight: (D, C, p, p) convolution weight; for a spectrogram C = 1, kernel rows run over frequency and
            kernel columns over time.
        bias: (D,).
        pos_embed: (1, L, D); patch id = row * columns + column, where a spectrogram's rows are frequency bands
            and its columns time steps.
        modality: (1, 1, D).
        ids_keep: (V, B, n) int64 kept patches of each view, or None for all patches in order.

    Returns:
        (V*B, n, D), view-major; (B, L, D) without ``ids_keep``.
    """
    matrix = weight_matrix(weight, pixels.ndim)
    positions = pos_embed + modality
    if ids_keep is None:
        patches = patch_grid(pixels, weight.shape[-1]).flatten(3).flatten(1, 2)
        return F.linear(patches, matrix, bias) + positions
    patches = gather_patches(pixels, ids_keep, weight.shape[-1])
    return F.linear(patches, matrix, bias) + F.embedding(ids_keep.flatten(0, 1), positions.squeeze(0))


def gather_patches(pixels: Tensor, ids_keep: Tensor, patch_size: int) -> Tensor:
    """Copy the kept patches' pixels, and no others.

    Args:
        pixels: (B, T, F) or (B, C, H, W).
        ids_keep: (V, B, n) int64.
        patch_size: p.

    Returns:
        (V*B, n, K), each patch's pixels in memory order.
    """
    grid = patch_grid(pixels, patch_size)
    columns = grid.shape[2]
    sample = torch.arange(pixels.shape[0], device=pixels.device).unsqueeze(1)  # len() would fix an exported batch
    return grid[sample, ids_keep // columns, ids_keep % columns].flatten(3).flatten(0, 1)


def patch_grid(pixels: Tensor, patch_size: int) -> Tensor:
    """View pixels as a grid of patches without a copy.

    Args:
        pixels: (B, T, F) or (B, C, H, W).
        patch_size: p.

    Returns:
        (B, rows, columns, p time, p frequency) of a spectrogram, whose rows are frequency bands;
        (B, rows, columns, C, p, p) of an image.
    """
    if pixels.ndim == 3:
        return pixels.unflatten(1, (-1, patch_size)).unflatten(3, (-1, patch_size)).permute(0, 3, 1, 2, 4)
    return pixels.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size)).permute(0, 2, 4, 1, 3, 5)


def weight_matrix(weight: Tensor, pixel_dims: int) -> Tensor:
    """The convolution weight as (D, K) in the pixel order of :func:`patch_grid`.

    Spectrograms keep frequency contiguous, so it is the small weight that is transposed, never the data.

    Args:
        weight: (D, C, p, p).
        pixel_dims: 3 for a spectrogram, 4 for an image.
    """
    return (weight.transpose(2, 3) if pixel_dims == 3 else weight).flatten(1)
