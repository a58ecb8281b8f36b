"""Attention kernels against float64, over awkward lengths, dtypes, head sizes and mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae.errors import ConfigError
from kdcmae.kernels import configs
from kdcmae.kernels.attention import launches, op, reference

LENGTHS = (1, 49, 63, 65, 127, 177, 196, 255, 300)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TABLES = {
    name: table
    for architecture in configs.ARCHITECTURES
    for name, table in configs.shipped_tables("attention", architecture).items()
}


def qkv_and_gradient(lengths: Sequence[int], num_heads: int, head_size: int, dtype=torch.float32, device="cpu", seed=0):
    """Random packed qkv that wants a gradient, and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    width, rows = num_heads * head_size, sum(lengths)
    qkv = torch.randn(rows, 3 * width, generator=generator).to(device, dtype)
    return qkv.requires_grad_(), torch.randn(rows, width, generator=generator).to(device, dtype)


def through_kernel(qkv, lengths, num_heads, gradient):
    """Output and gradient of qkv by the kernels, whatever the table leaves to the vendor."""
    runs = [number for run in reference.runs_of(lengths) for number in run]
    out, _ = op.attention_forward(qkv, runs, num_heads)
    return out.detach(), *torch.autograd.grad(out, qkv, gradient)


def through_reference(qkv, lengths, num_heads, gradient):
    out = reference.attention_ragged(qkv, lengths, num_heads)
    return out.detach(), *torch.autograd.grad(out, qkv, gradient)


def in_float64(qkv, lengths, num_heads, gradient):
    wide = qkv.detach().cpu().double().requires_grad_()
    return through_reference(wide, lengths, num_heads, gradient.cpu().double())


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.cpu().double() - expected).square().mean() / expected.square().mean()).sqrt().item()


def limit(dtype: torch.dtype, device: torch.device) -> float:
    if dtype == torch.float32:
        return 1e-5
    # The interpreter cuts float32 to bfloat16 where a GPU rounds: twice the error.
    return 1e-2 if dtype == torch.bfloat16 and device.type == "cpu" else 5e-3


def slack(dtype: torch.dtype, head_size: int) -> float:
    """An error that says nothing: where all of a gradient cancels, as for a sequence of one, PyTorch's may be zero.

    What is left is then the rounding of two sums over a head, which depends on the order that a processor adds them in.
    Half precision is rounded behind such sums, which are float32 there too.
    """
    eps = torch.finfo(dtype).eps
    return eps * head_size**0.5 if dtype == torch.float32 else eps / 8


def assert_matches_float64(qkv, lengths, num_heads, gradient, poisoned):
    """Every output within the tolerance, and within twice the error of PyTorch's own attention."""
    with poisoned():
        kernel = through_kernel(qkv, lengths, num_heads, gradient)
    exact = in_float64(qkv, lengths, num_heads, gradient)
    vendor = through_reference(qkv, lengths, num_heads, gradient)
    most, head_size = limit(qkv.dtype, qkv.device), qkv.shape[-1] // num_heads // 3
    for name, ours, theirs, truth in zip(("out", "dqkv"), kernel, vendor, exact, strict=True):
        error = relative_rms(ours, truth)
        assert ours.dtype == qkv.dtype
        assert error < most, f"{name}: {error}"
        if most <= 5e-3:
            assert error <= 2 * relative_rms(theirs, truth) + slack(qkv.dtype, head_size), name


@pytest.fixture
def table(monkeypatch):
    """Function that makes a shipped table the one in force."""

    def use(name: str) -> None:
        monkeypatch.setattr(launches, "_rows", lambda direction, device: launches._parse(TABLES[name][direction]))

    return use


ON_A_CPU = [
    *product(("cpu",), (torch.float32,), (64,), LENGTHS),
    *product(("cpu",), DTYPES[1:], launches.HEAD_SIZES, (65, 177)),
]  # one element after the other there: every length, and every dtype and head size, but not each with each
ON_A_GPU = product(("cuda",), DTYPES, launches.HEAD_SIZES, LENGTHS)


@pytest.mark.parametrize(
    ("device", "dtype", "head_size", "length"),
    [*ON_A_CPU, *(pytest.param(*values, marks=pytest.mark.gpu) for values in ON_A_GPU)],
    indirect=["device"],
    ids=str,
)
def test_one_length(device, dtype, head_size, length, poisoned):
    qkv, gradient = qkv_and_gradient([length], 1, head_size, dtype, device)
    assert_matches_float64(qkv, [length], 1, gradient, poisoned)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_row_of_every_table(device, name, dtype, table, poisoned):
    table(name)
    rows = [row for direction in ("forward", "backward") for row in launches._rows(direction, device)]
    for length in {min(row.max_length, 260) for row in rows if row.bits == 8 * dtype.itemsize}:
        qkv, gradient = qkv_and_gradient([length], 1, 64, dtype, device, seed=length)
        assert_matches_float64(qkv, [length], 1, gradient, poisoned)


def test_several_sequences_and_heads(device, poisoned):
    lengths, num_heads = [49] * 3, 4
    qkv, gradient = qkv_and_gradient(lengths, num_heads, 32, torch.float16, device)
    assert_matches_float64(qkv, lengths, num_heads, gradient, poisoned)


def test_mixed_lengths_equal_one_call_each(device, poisoned):
    lengths = [128, 49, 177, 49, 49, 1, 130]
    qkv, gradient = qkv_and_gradient(lengths, 2, 32, torch.float16, device)
    with poisoned():
        out, dqkv = through_kernel(qkv, lengths, 2, gradient)
    pieces = (tensor.split(lengths) for tensor in (qkv.detach(), gradient, out, dqkv))
    for length, rows, grad, *mixed in zip(lengths, *pieces, strict=True):
        alone = through_kernel(rows.clone().requires_grad_(), [length], 2, grad)
        torch.testing.assert_close(tuple(mixed), alone)


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), num_heads=st.integers(1, 3))
def test_any_mixture_of_short_lengths(lengths, num_heads):
    qkv, gradient = qkv_and_gradient(lengths, num_heads, 32, torch.float16)
    exact = in_float64(qkv, lengths, num_heads, gradient)
    for ours, truth in zip(through_kernel(qkv, lengths, num_heads, gradient), exact, strict=True):
        assert relative_rms(ours, truth) < 5e-3


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_sequence_of_nan_harms_no_neighbour(device):
    lengths = [50, 20, 70]
    qkv, gradient = qkv_and_gradient(lengths, 1, 64, torch.float16, device)
    clean = through_kernel(qkv, lengths, 1, gradient)
    with torch.no_grad():
        qkv[50:70] = torch.nan
    for before, after in zip(clean, through_kernel(qkv, lengths, 1, gradient), strict=True):
        assert after[50:70].isnan().all()
        assert torch.equal(before[:50], after[:50])
        assert torch.equal(before[70:], after[70:])


@pytest.mark.parametrize("length", [49, 300])
def test_large_scores_overflow_nowhere(device, length):
    qkv, gradient = qkv_and_gradient([length], 1, 64, torch.float32, device)
    large = (10 * qkv.detach()).requires_grad_()
    exact = in_float64(large, [length], 1, gradient)
    for ours, truth in zip(through_kernel(large, [length], 1, gradient), exact, strict=True):
        assert relative_rms(ours, truth) < 1e-4


def test_log_sum_exp_is_that_of_the_scaled_scores(device):
    qkv, _ = qkv_and_gradient([65], 2, 32, torch.float32, device)
    q, k, _ = qkv.detach().double().view(65, 3, 2, 32).permute(1, 2, 0, 3)
    expected = torch.logsumexp(q @ k.mT / math.sqrt(32), -1) / math.log(2)
    torch.testing.assert_close(op.attention_forward(qkv, [65, 1], 2)[1].double(), expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_the_slope_of_the_output(device):
    qkv, gradient = qkv_and_gradient([70], 1, 32, torch.float32, device)
    direction, step = torch.randn(qkv.shape, generator=torch.Generator().manual_seed(2)).to(qkv), 1e-2
    ahead, behind = (op.attention_forward(qkv + sign * step * direction, [70, 1], 1)[0] for sign in (1, -1))
    slope = (gradient * (ahead - behind)).sum() / (2 * step)
    (dqkv,) = torch.autograd.grad(op.attention_forward(qkv, [70, 1], 1)[0], qkv, gradient)
    torch.testing.assert_close((dqkv * direction).sum(), slope, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_runs_give_the_same_bits(device, dtype):
    lengths = [130, 65]
    qkv, gradient = qkv_and_gradient(lengths, 1, 64, dtype, device)
    first, second = (through_kernel(qkv, lengths, 1, gradient) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_strided_inputs_are_read_by_value(device):
    qkv, gradient = qkv_and_gradient([49], 2, 32, torch.float16, device)
    strided = qkv.detach().T.contiguous().T.requires_grad_()
    constant = torch.ones((), dtype=torch.float16, device=device).expand_as(gradient)
    expected = through_kernel(qkv, [49], 2, torch.ones_like(gradient))
    for ours, dense in zip(through_kernel(strided, [49], 2, constant), expected, strict=True):
        assert torch.equal(ours, dense)


@pytest.mark.parametrize("head_size", launches.HEAD_SIZES)
def test_batched_attention_is_the_packed_one(device, head_size):
    qkv, gradient = qkv_and_gradient([49, 49], 2, head_size, torch.float16, device)
    out, dqkv = through_kernel(qkv, [49, 49], 2, gradient)
    batched = qkv.detach().unflatten(0, (2, 49)).requires_grad_()
    result = op.attention(batched, 2)
    (batched_gradient,) = torch.autograd.grad(result, batched, gradient.unflatten(0, (2, 49)))
    assert torch.equal(result.flatten(0, 1), out)
    assert torch.equal(batched_gradient.flatten(0, 1), dqkv)


@pytest.mark.parametrize(
    ("dtype", "head_size", "length"),
    [(torch.float64, 64, 10), (torch.float16, 16, 10), (torch.float16, 64, 600), (torch.float32, 64, 10)],
)
def test_the_vendor_serves_the_rest(device, dtype, head_size, length):
    qkv, _ = qkv_and_gradient([length], 2, head_size, dtype, device)
    batched = qkv.detach().unsqueeze(0)
    assert torch.equal(op.attention(batched, 2), reference.attention(batched, 2))


def test_a_mixture_with_a_vendor_length_takes_both(device):
    lengths = [49, 600, 49]
    qkv, gradient = qkv_and_gradient(lengths, 1, 64, torch.float16, device)
    out = op.attention_ragged(qkv, lengths, 1)
    exact = in_float64(qkv, lengths, 1, gradient)
    assert relative_rms(out, exact[0]) < 5e-3
    assert relative_rms(*torch.autograd.grad(out, qkv, gradient), exact[1]) < 5e-3
    assert torch.equal(out[:49], through_kernel(qkv[:49], [49], 1, gradient[:49])[0])


@pytest.mark.parametrize(("head_size", "dtype"), [(48, torch.float32), (64, torch.float64)])
def test_a_shape_without_a_kernel_is_refused_by_name(head_size, dtype):
    with pytest.raises(ConfigError, match=f"{str(dtype)[6:]}, head size {head_size} and length 7"):
        op.attention_forward(torch.zeros(7, 3 * head_size, dtype=dtype), [7, 1], 1)


def test_runs_that_do_not_cover_the_rows_are_refused():
    with pytest.raises(ConfigError, match=r"runs \[5, 2\] cover 10 rows, but qkv has 9"):
        op.attention_forward(torch.zeros(9, 96), [5, 2], 1)


def test_pytorch_accepts_the_registration(device):
    qkv, gradient = qkv_and_gradient([5, 5, 4], 2, 32, torch.float32, device)
    runs = [5, 2, 4, 1]
    torch.library.opcheck(op.attention_forward, (qkv, runs, 2))
    out, lse = op.attention_forward(qkv.detach(), runs, 2)
    torch.library.opcheck(op.attention_backward, (qkv.detach(), out, lse, gradient, runs, 2))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(device, dynamic):
    def attend(batched, packed):
        return op.attention(batched, 2).flatten(0, 1), op.attention_ragged(packed, (9, 9, 2), 2)

    compiled = torch.compile(attend, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (10, 12):
        packed, gradient = qkv_and_gradient([9, 9, 2], 2, 32, torch.float16, device)
        batched = qkv_and_gradient([length] * 2, 2, 32, torch.float16, device)[0]
        batched = batched.detach().unflatten(0, (2, length)).requires_grad_()
        eager, graph = attend(batched, packed), compiled(batched, packed)
        assert all(torch.equal(one, other) for one, other in zip(eager, graph, strict=True))
        one, other = (torch.autograd.grad(outs[1], packed, gradient)[0] for outs in (eager, graph))
        assert torch.equal(one, other)
