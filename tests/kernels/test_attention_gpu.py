"""What only a GPU can show of the attention kernels; the comparisons with float64 run there from test_attention.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae.kernels.attention import op, reference

pytestmark = pytest.mark.gpu

# Runs of the encoder's lengths, one that streams, and one longer than any row of a block.
RUNS = [49, 16, 128, 16, 177, 16, 196, 4, 300, 4, 700, 2]
NUM_HEADS, HEAD_SIZE = 12, 64

SANITIZED = """
import torch
from kdcmae.kernels.attention import op

runs = [1, 2, 49, 2, 65, 1, 177, 1, 255, 1, 300, 1]
rows = sum(length * count for length, count in zip(runs[::2], runs[1::2]))
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for head_size in (32, 64):
        qkv = torch.randn(rows, 6 * head_size, device="cuda", dtype=dtype, requires_grad=True)
        op.attention_forward(qkv, runs, 2)[0].sum().backward()
torch.cuda.synchronize()
"""


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def packed(request) -> tuple[torch.Tensor, torch.Tensor]:
    """qkv that wants a gradient, and a gradient of the output."""
    rows = sum(length * count for length, count in zip(RUNS[::2], RUNS[1::2], strict=True))
    width = NUM_HEADS * HEAD_SIZE
    generator = torch.Generator("cuda").manual_seed(0)
    options = {"generator": generator, "device": "cuda", "dtype": request.param}
    return torch.randn(rows, 3 * width, **options).requires_grad_(), torch.randn(rows, width, **options)


def forward_and_backward(qkv, gradient):
    out, _ = op.attention_forward(qkv, RUNS, NUM_HEADS)
    return out.detach(), *torch.autograd.grad(out, qkv, gradient)


def test_twenty_runs_give_the_same_bits(packed):
    first = forward_and_backward(*packed)
    for _ in range(19):
        assert all(torch.equal(one, other) for one, other in zip(first, forward_and_backward(*packed), strict=True))


def test_a_training_size_batch_matches_float64(packed):
    qkv, gradient = packed
    lengths = [length for length, count in zip(RUNS[::2], RUNS[1::2], strict=True) for _ in range(count)]
    wide = qkv.detach().double().requires_grad_()
    exact = reference.attention_ragged(wide, lengths, NUM_HEADS)
    exact = exact.detach(), *torch.autograd.grad(exact, wide, gradient.double())
    for ours, truth in zip(forward_and_backward(qkv, gradient), exact, strict=True):
        assert ((ours - truth).square().mean() / truth.square().mean()).sqrt() < 5e-3


def test_a_cuda_graph_replays_it(packed):
    qkv, gradient = packed
    expected = forward_and_backward(qkv, gradient)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(qkv, gradient)
    for tensor in captured:
        tensor.fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))


def test_addresses_pass_two_to_the_thirty_one():
    """The last sequence of a buffer of more than 2^31 elements is attended as if it were alone."""
    length, width = 128, NUM_HEADS * HEAD_SIZE
    count = 2**31 // (3 * width * length) + 2
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    qkv = torch.randn(length, 3 * width, device="cuda", dtype=torch.float16).repeat(count, 1).requires_grad_()
    gradient = torch.randn(length, width, device="cuda", dtype=torch.float16)
    out, _ = op.attention_forward(qkv, [length, count], NUM_HEADS)
    (dqkv,) = torch.autograd.grad(out, qkv, gradient.repeat(count, 1))
    assert torch.equal(out[-length:], out[:length])
    assert torch.equal(dqkv[-length:], dqkv[:length])


def test_compute_sanitizer_finds_nothing():
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    # Without PyTorch's caching every tensor is an allocation of its own, whose end the tool can guard.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
