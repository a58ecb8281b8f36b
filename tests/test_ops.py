"""The choice between kernel and reference, and what the operations refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kdcmae import ops
from kdcmae.errors import ConfigError, MissingDependencyError
from kdcmae.kernels.attention import reference as attention_reference
from kdcmae.kernels.patch_embed import reference as patch_embed_reference


def patch_arguments(shape: tuple[int, ...] = (2, 64, 32), length: int = 8) -> list[torch.Tensor]:
    channels = 1 if len(shape) == 3 else shape[1]
    sizes = (shape, (12, channels, 16, 16), (12,), (1, length, 12), (1, 1, 12))
    return [torch.randn(size, generator=torch.Generator().manual_seed(0)) for size in sizes]


@pytest.fixture
def cuda_tensor():
    """A tensor that says it is on a GPU, on any machine."""

    def make(dtype: torch.dtype = torch.float16, *, requires_grad: bool = False) -> torch.Tensor:
        return torch.empty(2, 3, device="cuda", dtype=dtype, requires_grad=requires_grad)

    with FakeTensorMode():
        yield make


def test_auto_is_the_default_and_takes_the_reference_on_a_cpu():
    assert ops.backend() == "auto"
    ids = torch.tensor([[[0, 3], [7, 1]]])
    arguments = patch_arguments()
    assert torch.equal(ops.embed_patches(*arguments, ids), patch_embed_reference.embed_patches(*arguments, ids))
    qkv = torch.randn(2, 5, 24)
    assert torch.equal(ops.attention(qkv, 2), attention_reference.attention(qkv, 2))
    packed = qkv.flatten(0, 1)
    assert torch.equal(
        ops.attention_ragged(packed, (3, 3, 4), 2), attention_reference.attention_ragged(packed, (3, 3, 4), 2)
    )


@pytest.fixture
def triton(monkeypatch):
    """Installs Triton, or removes it."""
    return lambda installed: monkeypatch.setattr(ops, "_TRITON_INSTALLED", installed)


@pytest.mark.parametrize("installed", [True, False])
def test_auto_takes_the_kernel_for_cuda_tensors_where_triton_is(installed, cuda_tensor, triton):
    triton(installed)
    assert ops._takes_kernel(cuda_tensor()) is installed


def test_auto_takes_the_reference_for_what_the_kernels_lack(cuda_tensor, triton, monkeypatch):
    triton(True)
    assert not ops._takes_kernel(cuda_tensor(torch.float64))
    wants_gradient = cuda_tensor(requires_grad=True)
    assert ops._takes_kernel(wants_gradient)
    assert not ops._takes_kernel(wants_gradient, gradient=False)
    with torch.no_grad():
        assert ops._takes_kernel(wants_gradient, gradient=False)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert not ops._takes_kernel(cuda_tensor())


def test_reference_insists_on_the_reference(cuda_tensor):
    with ops.use_backend("reference"):
        assert not ops._takes_kernel(cuda_tensor())


def test_use_backend_restores_after_an_error():
    with pytest.raises(ConfigError), ops.use_backend("reference"):
        ops.set_backend("cuda")
    assert ops.backend() == "auto"


def test_use_backend_nests():
    with ops.use_backend("reference"):
        with ops.use_backend("auto"):
            assert ops.backend() == "auto"
        assert ops.backend() == "reference"
    assert ops.backend() == "auto"


def test_set_backend_stays():
    ops.set_backend("reference")
    try:
        assert ops.backend() == "reference"
    finally:
        ops.set_backend("auto")


def test_unknown_backend():
    with pytest.raises(ConfigError, match="'cuda' is unknown; use one of auto, triton, reference"):
        ops.set_backend("cuda")
    assert ops.backend() == "auto"


def test_triton_where_it_is_not_installed(triton):
    triton(False)
    with pytest.raises(MissingDependencyError, match="triton is not installed"):
        ops.set_backend("triton")


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch):
    pytest.importorskip("triton", reason="the setting needs Triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with ops.use_backend("triton"), pytest.raises(ConfigError, match="the CPU without TRITON_INTERPRET=1"):
        ops.embed_patches(*patch_arguments(), None)


@pytest.mark.skipif(not ops._TRITON_INSTALLED, reason="the setting needs Triton")
@pytest.mark.parametrize(
    ("data", "obstacle"),
    [(torch.zeros(1, 2, 6, dtype=torch.float64), "torch.float64"), (torch.zeros(1, 2, 6, device="meta"), "'meta'")],
)
def test_triton_refuses_what_the_kernels_lack(data, obstacle):
    with ops.use_backend("triton"), pytest.raises(ConfigError, match=obstacle):
        ops.attention(data, 1)


def test_importing_needs_no_triton():
    blocked = "import sys; sys.modules['triton'] = None; from kdcmae import ops; print(ops.backend())"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    assert done.stdout == "auto\n"


@pytest.mark.parametrize(
    ("shape", "length", "message"),
    [
        ((2, 60, 32), 8, r"pixels \(2, 60, 32\) do not fit patch weights"),
        ((2, 64, 40), 8, r"pixels \(2, 64, 40\) do not fit patch weights"),
        ((64,), 8, r"pixels \(64,\) do not fit patch weights"),
        ((2, 64, 32), 12, r"12 positions, but pixels \(2, 64, 32\) have 8 patches"),
        ((2, 3, 32, 48), 4, r"4 positions, but pixels \(2, 3, 32, 48\) have 6 patches"),
    ],
)
def test_pixels_that_do_not_fit(shape, length, message):
    _, *rest = patch_arguments(length=length)
    if len(shape) == 4:
        rest = patch_arguments(shape, length)[1:]
    with pytest.raises(ConfigError, match=message):
        ops.embed_patches(torch.zeros(shape), *rest, None)


def test_an_image_for_spectrogram_weights():
    _, *rest = patch_arguments()
    with pytest.raises(ConfigError, match=r"\(2, 3, 64, 32\) do not fit patch weights \(12, 1, 16, 16\)"):
        ops.embed_patches(torch.zeros(2, 3, 64, 32), *rest, None)


def test_pixels_and_weights_of_two_dtypes_need_autocast():
    pixels, *rest = patch_arguments()
    with pytest.raises(ConfigError, match=r"pixels are torch\.float64 and patch weights torch\.float32"):
        ops.embed_patches(pixels.double(), *rest, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.embed_patches(pixels.bfloat16(), *rest, None).dtype == torch.float32


@pytest.mark.parametrize("size", [(2, 3), (1, 3, 4)])
def test_ids_of_another_batch(size):
    with pytest.raises(ConfigError, match=r"must be \(views, batch, kept\) with batch 2"):
        ops.embed_patches(*patch_arguments(), torch.zeros(size, dtype=torch.int64))


def test_lengths_that_do_not_sum_up():
    with pytest.raises(ConfigError, match="lengths sum to 7, but qkv has 10 rows"):
        ops.attention_ragged(torch.zeros(10, 24), (3, 4), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision_on_a_cpu_gives_what_float32_gives(dtype):
    qkv = torch.randn(3, 17, 3 * 64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    wide = qkv.detach().float().requires_grad_()
    gradient = torch.randn(3, 17, 64, generator=torch.Generator().manual_seed(1))
    attended, exact = ops.attention(qkv, 2), ops.attention(wide, 2)
    attended.backward(gradient.to(dtype))
    exact.backward(gradient)
    assert attended.dtype == dtype
    for ours, theirs in ((attended, exact), (qkv.grad, wide.grad)):
        assert (ours.float() - theirs).norm() < 1e-2 * theirs.norm()
