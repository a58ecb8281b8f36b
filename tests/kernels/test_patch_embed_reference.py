"""The plain PyTorch patch embedding against the dense convolution it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdcmae.kernels.patch_embed import reference

SHAPES = {"spectrogram": (4, 64, 32), "image": (4, 3, 48, 32)}
WIDTH = 24


def arguments(shape: tuple[int, ...], dtype=torch.float64, **options) -> list[torch.Tensor]:
    """Pixels, weight, bias, pos_embed and modality."""
    generator = torch.Generator().manual_seed(0)
    channels, length = (1, 8) if len(shape) == 3 else (3, 6)
    sizes = (shape, (WIDTH, channels, 16, 16), (WIDTH,), (1, length, WIDTH), (1, 1, WIDTH))
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_(**options) for size in sizes]


def dense_then_gather(pixels, weight, bias, pos_embed, modality, ids_keep):
    """The published formulation: convolve everything, add positions, gather what is kept, view by view."""
    image = pixels.mT.unsqueeze(1) if pixels.ndim == 3 else pixels
    tokens = F.conv2d(image, weight, bias, stride=16).flatten(2).mT + pos_embed + modality
    if ids_keep is None:
        return tokens
    return torch.cat([tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, WIDTH)) for ids in ids_keep])


def ids_of(views: int, batch: int, length: int, kept: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(views, batch, length, generator=generator).argsort(dim=-1)[..., :kept]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("views", [None, 1, 3])
def test_equals_convolution_then_gather(shape, views):
    leaves = arguments(shape)
    ids = None if views is None else ids_of(views, 4, leaves[3].shape[1], 5)
    tokens, expected = reference.embed_patches(*leaves, ids), dense_then_gather(*leaves, ids)
    torch.testing.assert_close(tokens, expected)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(tokens, leaves, grad), torch.autograd.grad(expected, leaves, grad))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("masked", [True, False])
def test_autocast_dtypes_are_those_of_a_convolution_and_an_addition(shape, masked):
    leaves = arguments(shape, torch.float32)
    ids = ids_of(2, 4, leaves[3].shape[1], 5) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        tokens, expected = reference.embed_patches(*leaves, ids), dense_then_gather(*leaves, ids)
    assert tokens.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(tokens, expected, rtol=2e-2, atol=2e-1)
    gradients = torch.autograd.grad(tokens.sum(), leaves)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_in_half_precision_stays_there(dtype):
    leaves = arguments(SHAPES["image"], dtype)
    assert reference.embed_patches(*leaves, ids_of(2, 4, 6, 5)).dtype == dtype


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_patch_order_matches_the_weight(shape):
    pixels, weight, *_ = arguments(shape)
    patches = reference.patch_grid(pixels, 16)
    assert patches.data_ptr() == pixels.data_ptr()  # a view, no copy
    image = pixels.mT.unsqueeze(1) if pixels.ndim == 3 else pixels  # rows: frequency; columns: time
    patch = image[0, :, 16:32, :16]
    product = reference.weight_matrix(weight, pixels.ndim) @ patches[0, 1, 0].flatten()
    torch.testing.assert_close(product, (weight * patch).sum(dim=(1, 2, 3)))


class Embed(torch.nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.leaves = torch.nn.ParameterList(arguments(shape, torch.float32)[1:])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return reference.embed_patches(pixels, *self.leaves, None)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_exports_with_a_dynamic_batch(shape):
    model, pixels = Embed(shape), torch.randn(shape)
    program = torch.export.export(model, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    longer = torch.cat([pixels, pixels])
    torch.testing.assert_close(program.module()(longer), model(longer))
