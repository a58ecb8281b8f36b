"""Training on a GPU: through the kernels it takes the same steps as through the references."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae import KDCMAE, ops
from kdcmae.bench.studies.published import PublishedKDCMAE
from kdcmae.pretraining import PretrainingOutput

pytestmark = pytest.mark.gpu

Step = Callable[..., PretrainingOutput]

DEVICE = torch.device("cuda")
MODEL = {"preset": "small", "clips": 8}
STEPS = 5


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """Products in float32 are of float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def fresh_model() -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset(MODEL["preset"]).to(DEVICE)


def batch(model: KDCMAE):
    """Audio, image and views of one step."""
    config, clips = model.config, MODEL["clips"]
    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(clips, config.audio_length, config.mel_bins, generator=generator).to(DEVICE)
    image = torch.randn(clips, 3, config.image_size, config.image_size, generator=generator).to(DEVICE)
    return audio, image, model.sample_pairs(audio, generator)


def train(backend: ops.Backend, dtype: torch.dtype) -> list[float]:
    """Losses of a few steps on one batch."""
    model = fresh_model()
    audio, image, pairs = batch(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(STEPS):
        with ops.use_backend(backend), torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
            loss = model(audio, image, pairs=pairs).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def gradient(model: KDCMAE, network: Step, backend: ops.Backend, dtype: torch.dtype) -> torch.Tensor:
    """All gradients of one step of ``network``, which computes ``model``, as one vector."""
    audio, image, pairs = batch(model)
    with ops.use_backend(backend), torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        loss = network(audio, image, pairs=pairs).loss
    found = torch.autograd.grad(loss, [one for one in model.parameters() if one.requires_grad], allow_unused=True)
    return torch.cat([one.flatten() for one in found if one is not None]).double()


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_gradient_is_as_exact_as_the_references(dtype, no_tf32):
    model = fresh_model()
    exact = gradient(model, model, "reference", torch.float32)
    plain = distance(gradient(model, model, "reference", dtype), exact)
    assert 0 < plain < 0.1
    assert distance(gradient(model, model, "triton", dtype), exact) < 2 * plain


@pytest.mark.filterwarnings("ignore:::torch")  # the compiler's own deprecations and hints
def test_a_compiled_step_is_one_graph_and_as_exact(no_tf32):
    model = fresh_model()
    exact = gradient(model, model, "reference", torch.float32)
    plain = distance(gradient(model, model, "reference", torch.bfloat16), exact)
    compiled = torch.compile(model, fullgraph=True)
    assert distance(gradient(model, compiled, "triton", torch.bfloat16), exact) < 2 * plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_losses_fall_together(dtype, no_tf32):
    losses, expected = train("triton", dtype), train("reference", dtype)
    assert expected[-1] < expected[0]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    assert losses == pytest.approx(expected, rel=tolerance)


def test_the_published_formulation_trains_alike(no_tf32):
    model = fresh_model()
    audio, image, pairs = batch(model)
    with torch.no_grad(), ops.use_backend("triton"):
        ours = model(audio, image, pairs=pairs)
        theirs = PublishedKDCMAE.sharing(model)(audio, image, pairs=pairs)
    for name, value in vars(ours).items():
        torch.testing.assert_close(getattr(theirs, name), value, rtol=1e-4, atol=1e-5, msg=name)
