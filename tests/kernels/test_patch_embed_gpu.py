"""What only a GPU can show of the patch embedding; the comparisons with float64 run there from test_patch_embed.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae import ops
from kdcmae.kernels.patch_embed import op, reference

pytestmark = pytest.mark.gpu

WIDTH = 768
MODALITIES = {"spectrogram": ((1024, 128), 128), "image": ((3, 224, 224), 49)}

SANITIZED = """
import torch
from kdcmae.kernels.patch_embed import op

for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for shape, channels in (((3, 48, 80), 1), ((3, 3, 48, 80), 3)):
        sizes = ((72, channels, 16, 16), (72,), (1, 15, 72), (1, 1, 72))
        leaves = [torch.randn(size, device="cuda", dtype=dtype, requires_grad=True) for size in sizes]
        pixels = torch.randn(shape, device="cuda", dtype=dtype)
        ids = torch.rand(2, 3, 15, device="cuda").argsort(dim=-1)[..., :7]
        for kept in (ids, None):
            op.fused_embed_patches(pixels, *leaves, kept).sum().backward()
torch.cuda.synchronize()
"""


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(params=MODALITIES)
def arguments(request) -> list[torch.Tensor]:
    """A training batch of the base model: pixels, four parameters and two views' ids, float32."""
    shape, kept = MODALITIES[request.param]
    channels, length = (1, 512) if len(shape) == 2 else (3, 196)
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device="cuda")

    weight = random(WIDTH, channels, 16, 16) / (channels * 256) ** 0.5
    parameters = (weight, random(WIDTH), random(1, length, WIDTH), random(1, 1, WIDTH))
    ids = torch.rand(2, 64, length, generator=generator, device="cuda").argsort(dim=-1)[..., :kept]
    return [random(64, *shape), *(parameter.requires_grad_() for parameter in parameters), ids]


def solve(embed, arguments, dtype=torch.bfloat16):
    """Tokens under autocast, and the gradients of the parameters that want one."""
    with torch.autocast("cuda", dtype):
        tokens = embed(*arguments)
    leaves = [argument for argument in arguments if argument.requires_grad]
    generator = torch.Generator("cuda").manual_seed(1)
    grad = torch.randn(tokens.shape, generator=generator, device="cuda", dtype=tokens.dtype)
    return tokens.detach(), *torch.autograd.grad(tokens, leaves, grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_training_batch_matches_float64(arguments, dtype):
    *tensors, ids = arguments
    wide = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]
    tokens = reference.embed_patches(*wide, ids)
    ours = solve(op.fused_embed_patches, arguments, dtype)
    generator = torch.Generator("cuda").manual_seed(1)
    grad = torch.randn(tokens.shape, generator=generator, device="cuda", dtype=ours[0].dtype).double()
    exact = tokens.detach(), *torch.autograd.grad(tokens, wide[1:], grad)
    for actual, truth in zip(ours, exact, strict=True):
        assert ((actual - truth).square().mean() / truth.square().mean()).sqrt() < 5e-3


def test_twenty_runs_give_the_same_bits(arguments):
    first = solve(op.fused_embed_patches, arguments)
    for _ in range(19):
        again = solve(op.fused_embed_patches, arguments)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_auto_takes_the_kernel(arguments):
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(ops.embed_patches(*arguments), op.fused_embed_patches(*arguments))


@pytest.mark.filterwarnings("ignore:::torch")  # the compiler's own deprecations and hints
def test_inductor_compiles_it_into_one_graph(arguments):
    compiled = torch.compile(ops.embed_patches, fullgraph=True)
    for one, other in zip(solve(compiled, arguments), solve(ops.embed_patches, arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2 * other.abs().max().item())


def test_a_training_step_never_waits_for_the_gpu(arguments):
    arguments[3].requires_grad_(False)  # as in pretraining, where positions are fixed
    solve(ops.embed_patches, arguments)
    torch.cuda.set_sync_debug_mode("error")  # a wait raises
    try:
        solved = solve(ops.embed_patches, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.isfinite().all() for tensor in solved)


def test_a_cuda_graph_replays_it(arguments):
    arguments[3].requires_grad_(False)
    pixels, *parameters, ids = arguments
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    grad = torch.randn(2 * 64, ids.shape[-1], WIDTH, device="cuda")

    def step():
        tokens = op.fused_embed_patches(pixels, *parameters, ids)
        return tokens.detach(), *torch.autograd.grad(tokens, leaves, grad)

    expected = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor in captured:
        tensor.fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))


def test_addresses_pass_two_to_the_thirty_one():
    """The last sample of a batch of more than 2^31 pixels and token elements is embedded as if it were alone."""
    batch = 2**31 // (1024 * 128) + 2
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free GPU memory")
    sample = torch.randn(1, 1024, 128, device="cuda", dtype=torch.float16)
    sizes = ((WIDTH, 1, 16, 16), (WIDTH,), (1, 512, WIDTH), (1, 1, WIDTH))
    parameters = [torch.randn(size, device="cuda", dtype=torch.float16) for size in sizes]
    tokens = op.fused_embed_patches(sample.expand(batch, -1, -1), *parameters, None)
    assert torch.equal(tokens[-1], tokens[0])
    patches = op.gather_patches(sample.expand(batch, -1, -1), None, 16, torch.float16)
    assert torch.equal(patches[-1], patches[0])


def test_compute_sanitizer_finds_nothing():
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    # Without PyTorch's caching every tensor is an allocation of its own, whose end the tool can guard.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
