"""Masked patch embedding kernels against float64, over awkward counts, dtypes, widths and both modalities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae import ops
from kdcmae.errors import ConfigError
from kdcmae.kernels import configs
from kdcmae.kernels.patch_embed import launches, op, reference

PATCH = 16
SPECTROGRAM = (144, 128)  # 9 time steps, 8 frequency bands: 72 patches
IMAGE = (3, 112, 176)  # 7 rows, 11 columns: 77 patches
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = ("tokens", "weight", "bias", "pos_embed", "modality")


@dataclass(frozen=True)
class Problem:
    """Arguments of ``embed_patches`` of which all but the pixels want a gradient, and a gradient of the tokens."""

    pixels: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    pos_embed: torch.Tensor
    modality: torch.Tensor
    ids_keep: torch.Tensor | None
    grad: torch.Tensor

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        return self.weight, self.bias, self.pos_embed, self.modality

    def tokens(self, embed) -> torch.Tensor:
        return embed(self.pixels, *self.parameters, self.ids_keep)

    def solve(self, embed) -> tuple[torch.Tensor, ...]:
        """Tokens and the gradients of the parameters, as ``embed`` computes them."""
        tokens = self.tokens(embed)
        return tokens.detach(), *torch.autograd.grad(tokens, self.parameters, self.grad)

    def exact(self) -> tuple[torch.Tensor, ...]:
        """The same by the reference in float64."""
        ids = None if self.ids_keep is None else self.ids_keep.cpu()
        pixels, grad = self.pixels.cpu().double(), self.grad.cpu().double()
        wide = (parameter.detach().cpu().double().requires_grad_() for parameter in self.parameters)
        return Problem(pixels, *wide, ids, grad).solve(reference.embed_patches)


def problem(
    shape: tuple[int, ...] = SPECTROGRAM,
    kept: int | None = 49,
    *,
    batch: int = 2,
    views: int = 2,
    dim: int = 48,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    channels = 1 if len(shape) == 2 else shape[0]
    length = (shape[-2] // PATCH) * (shape[-1] // PATCH)
    ids = None
    if kept is not None:
        ids = torch.rand(views, batch, length, generator=generator).argsort(dim=-1)[..., :kept].to(device)
    return Problem(
        random(batch, *shape),
        (random(dim, channels, PATCH, PATCH) / (channels * PATCH**2) ** 0.5).requires_grad_(),
        random(dim).requires_grad_(),
        random(1, length, dim).requires_grad_(),
        random(1, 1, dim).requires_grad_(),
        ids,
        random(batch if kept is None else views * batch, kept or length, dim),
    )


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.cpu().double() - expected).square().mean() / expected.square().mean()).sqrt().item()


def limit(dtype: torch.dtype, device: torch.device) -> float:
    if dtype == torch.float32:
        return 1e-5
    # The interpreter cuts float32 to bfloat16 where a GPU rounds: twice the error.
    return 1e-2 if dtype == torch.bfloat16 and device.type == "cpu" else 5e-3


def assert_matches_float64(case: Problem, poisoned) -> None:
    """Tokens and gradients within the tolerance, and within twice the error of plain PyTorch in the same dtype."""
    with poisoned():
        ours = case.solve(op.fused_embed_patches)
    most = limit(case.weight.dtype, case.pixels.device)
    for name, actual, plain, truth in zip(NAMES, ours, case.solve(reference.embed_patches), case.exact(), strict=True):
        assert actual.dtype == case.weight.dtype
        error = relative_rms(actual, truth)
        assert error < most, f"{name}: {error:.1e}"
        assert error < max(2 * relative_rms(plain, truth), most / 10), f"{name}: {error:.1e} is worse than PyTorch"


KEPT = [(1, 1, 1, 192), (49, 3, 1, 96), (63, 1, 3, 48), (65, 2, 2, 48)]
ON_A_CPU = [
    *product(("cpu",), (torch.float32,), (SPECTROGRAM, IMAGE), KEPT),
    *product(("cpu",), DTYPES[1:], (SPECTROGRAM, IMAGE), KEPT[:1]),
]  # one element after the other there: not each with each
ON_A_GPU = product(("cuda",), DTYPES, (SPECTROGRAM, IMAGE), KEPT)


@pytest.mark.parametrize(
    ("device", "dtype", "shape", "sizes"),
    [*ON_A_CPU, *(pytest.param(*values, marks=pytest.mark.gpu) for values in ON_A_GPU)],
    indirect=["device"],
    ids=str,
)
def test_kept_patches(shape, sizes, dtype, device, poisoned):
    kept, batch, views, dim = sizes
    case = problem(shape, kept, batch=batch, views=views, dim=dim, dtype=dtype, device=device)
    assert_matches_float64(case, poisoned)


@pytest.mark.parametrize("shape", [(256, 128), (3, 192, 176)], ids=["spectrogram", "image"])
def test_a_whole_row_tile(shape, device, poisoned):
    assert_matches_float64(problem(shape, 128, batch=1, dtype=torch.float16, device=device), poisoned)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [SPECTROGRAM, IMAGE], ids=["spectrogram", "image"])
def test_all_patches(shape, dtype, device, poisoned):
    assert_matches_float64(problem(shape, None, dtype=dtype, device=device), poisoned)


def test_base_width(device, poisoned):
    assert_matches_float64(problem(IMAGE, 17, batch=1, views=1, dim=768, dtype=torch.float16, device=device), poisoned)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 5),
    channels=st.sampled_from([None, 1, 3]),
    kept=st.integers(1, 20),
    views=st.integers(1, 3),
    dim=st.sampled_from([16, 48, 72]),
)
def test_any_grid(rows, columns, channels, kept, views, dim):
    side = (rows * PATCH, columns * PATCH)
    case = problem(side if channels is None else (channels, *side), min(kept, rows * columns), views=views, dim=dim)
    for name, ours, truth in zip(NAMES, case.solve(op.fused_embed_patches), case.exact(), strict=True):
        assert relative_rms(ours, truth) < 1e-5, name


@pytest.mark.parametrize("patch_size", [4, 8, 14])
def test_other_patch_sizes(patch_size, device):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 3 * patch_size, 2 * patch_size, generator=generator).to(device)
    weight = torch.randn(48, 3, patch_size, patch_size, generator=generator).to(device)
    pos_embed = torch.randn(1, 6, 48, generator=generator).to(device)
    rest = (torch.zeros(48, device=device), pos_embed, torch.zeros(1, 1, 48, device=device))
    ids = torch.tensor([[[5, 0, 3], [1, 2, 4]]], device=device)
    ours = op.fused_embed_patches(pixels, weight, *rest, ids)
    truth = reference.embed_patches(*(x.cpu().double() for x in (pixels, weight, *rest)), ids.cpu())
    assert relative_rms(ours, truth) < 1e-5


@pytest.mark.parametrize("shape", [SPECTROGRAM, IMAGE], ids=["spectrogram", "image"])
def test_restored_tokens_are_the_dense_ones_at_kept_places(shape, device):
    case = problem(shape, 63, batch=2, views=2, dtype=torch.float16, device=device)
    dense = replace(case, ids_keep=None).tokens(op.fused_embed_patches).repeat(2, 1, 1)
    places = case.ids_keep.flatten(0, 1).unsqueeze(-1).expand(-1, -1, 48)
    restored = torch.zeros_like(dense).scatter(1, places, case.tokens(op.fused_embed_patches))
    kept = torch.zeros_like(dense).scatter(1, places, 1.0) > 0
    assert torch.equal(restored[kept], dense[kept])
    assert not restored[~kept].any()


@pytest.mark.parametrize("shape", [SPECTROGRAM, IMAGE], ids=["spectrogram", "image"])
def test_only_kept_patches_are_read(shape, device):
    case = problem(shape, 49, batch=2, views=1, device=device)
    grid = reference.patch_grid(case.pixels, PATCH)
    hidden_grid = torch.full_like(grid, torch.nan)
    sample = torch.arange(2, device=device).unsqueeze(1)
    row, column = case.ids_keep[0] // grid.shape[2], case.ids_keep[0] % grid.shape[2]
    hidden_grid[sample, row, column] = grid[sample, row, column]
    hidden = replace(case, pixels=_pixels(hidden_grid, shape))
    for before, after in zip(case.solve(op.fused_embed_patches), hidden.solve(op.fused_embed_patches), strict=True):
        assert torch.equal(before, after)


def _pixels(grid: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of ``patch_grid``."""
    order = (0, 2, 3, 1, 4) if len(shape) == 2 else (0, 3, 1, 4, 2, 5)
    return grid.permute(order).reshape(len(grid), *shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_runs_give_the_same_bits(dtype, device):
    case = problem(kept=65, batch=1, dtype=dtype, device=device)
    first, second = (case.solve(op.fused_embed_patches) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_strided_inputs_are_read_by_value(device):
    case = problem(kept=49, dtype=torch.float16, device=device)
    strided = replace(
        case,
        pixels=case.pixels.mT.contiguous().mT,
        ids_keep=case.ids_keep.mT.contiguous().mT,
        grad=torch.ones((), dtype=torch.float16, device=device).expand_as(case.grad),
    )
    dense = replace(case, grad=torch.ones_like(case.grad))
    for ours, expected in zip(strided.solve(op.fused_embed_patches), dense.solve(op.fused_embed_patches), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 1, 3)], ids=str)
def test_gradients_go_only_where_they_are_wanted(wanted):
    case = problem(kept=5, views=1)
    full = case.solve(op.fused_embed_patches)[1:]
    for parameter in case.parameters:
        parameter.requires_grad_(False)
    chosen = [case.parameters[index].requires_grad_() for index in wanted]
    some = torch.autograd.grad(case.tokens(op.fused_embed_patches), chosen, case.grad)
    for index, gradient in zip(wanted, some, strict=True):
        assert torch.equal(gradient, full[index])


def test_pixels_get_no_gradient_silently():
    case = problem(kept=5)
    tokens = op.fused_embed_patches(case.pixels.requires_grad_(), *case.parameters, case.ids_keep)
    with pytest.raises(NotImplementedError, match="no gradient for pixels"):
        tokens.sum().backward()


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.float16], ids=str)
def test_autocast_behaves_as_plain_pytorch(model_dtype, device):
    case = problem(kept=49, dtype=model_dtype, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        ours, plain = case.tokens(op.fused_embed_patches), case.tokens(reference.embed_patches)
    assert ours.dtype == plain.dtype == torch.float32  # bfloat16 product, float32 or float16 positions
    gradients = torch.autograd.grad(ours, case.parameters, case.grad.float())
    for name, actual, truth in zip(NAMES, (ours, *gradients), case.exact(), strict=True):
        assert actual.dtype == (torch.float32 if name == "tokens" else model_dtype)
        assert relative_rms(actual, truth) < limit(torch.bfloat16, device), name


@pytest.mark.parametrize("kept", [7, None])
def test_pytorch_accepts_the_registration(kept, device):
    case = problem((32, 64), kept, views=1, batch=1, device=device)
    weight = reference.weight_matrix(case.weight, case.pixels.ndim)
    arguments = (weight, case.bias, case.pos_embed.squeeze(0))
    leaves = (argument.detach().contiguous().requires_grad_() for argument in arguments)
    torch.library.opcheck(op._embed, (case.pixels, *leaves, case.ids_keep, PATCH))
    torch.library.opcheck(op.gather_patches, (case.pixels, case.ids_keep, PATCH, torch.float16))
    if kept:
        torch.library.opcheck(op.sum_by_patch, (case.grad, case.ids_keep, case.pos_embed.shape[1]))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic, device):
    compiled = torch.compile(ops.embed_patches, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with ops.use_backend("triton"):
        for batch in (2, 3):
            case = problem(kept=7, batch=batch, dtype=torch.float16, device=device)
            for eager, graph in zip(case.solve(ops.embed_patches), case.solve(compiled), strict=True):
                assert torch.equal(eager, graph)


def test_ops_take_the_kernel(device):
    case = problem(kept=49, dtype=torch.float16, device=device)
    with ops.use_backend("triton"):
        assert torch.equal(case.tokens(ops.embed_patches), case.tokens(op.fused_embed_patches))
        with pytest.raises(ConfigError, match="wants a gradient"):
            replace(case, pixels=case.pixels.clone().requires_grad_()).tokens(ops.embed_patches)
        with torch.no_grad():
            replace(case, pixels=case.pixels.clone().requires_grad_()).tokens(ops.embed_patches)


def test_the_table_sends_dtypes_to_the_vendor(device, monkeypatch):
    case = problem(kept=49, device=device)
    table = {**configs.table("patch_embed", device), "vendor_dtypes": ["float32"]}
    monkeypatch.setattr(configs, "table", lambda *_: table)
    assert torch.equal(case.tokens(op.embed_patches), case.tokens(reference.embed_patches))
    table["vendor_dtypes"] = []
    assert torch.equal(case.tokens(op.embed_patches), case.tokens(op.fused_embed_patches))


def test_dtypes_without_a_row_are_refused():
    case = problem(kept=49, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"no patch embedding kernel for torch\.float64"):
        case.tokens(op.fused_embed_patches)


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
def test_every_table_serves_every_dtype(architecture):
    for table in configs.shipped_tables("patch_embed", architecture).values():
        assert {(row["pixel_bits"], row["bits"]) for row in table["tilings"]} >= {(32, 32), (32, 16), (16, 16)}
        assert {build.kernel for build in launches.builds(table)} == {
            op.embed_kernel,
            op.gather_kernel,
            op.sum_kernel,
        }
