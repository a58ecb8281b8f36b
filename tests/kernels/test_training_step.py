"""A pretraining step through the kernels is the step through the references: the loss and every gradient."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from kdcmae import KDCMAE, ops
from kdcmae.kernels import configs


@pytest.fixture
def every_kernel(monkeypatch) -> None:
    """Leave nothing to the vendor, whatever the tables say."""
    shipped = configs.table
    lengths = dict.fromkeys(("float32", "float16", "bfloat16"), 1025)
    monkeypatch.setattr(
        configs,
        "table",
        lambda *request: {**shipped(*request), "vendor_dtypes": [], "vendor_from_length": lengths},
    )


def step(backend: ops.Backend, device: torch.device, autocast: torch.dtype | None = None):
    """Loss and gradients by name of one step of a fresh, shallow model on 96 frames and a small image."""
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", image_size=96, specific_depth=1, decoder_depth=1).to(device)
    generator = torch.Generator().manual_seed(1)
    audio, image = torch.randn(1, 96, 128, generator=generator), torch.randn(1, 3, 96, 96, generator=generator)
    pairs = model.sample_pairs(audio.to(device), generator)
    with ops.use_backend(backend), torch.autocast(device.type, autocast, enabled=autocast is not None):
        loss = model(audio.to(device), image.to(device), pairs=pairs).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.detach(), gradients


def distance(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of all gradients together, relative to ``expected``."""
    assert gradients.keys() == expected.keys()
    error = sum((gradients[name] - expected[name]).double().square().sum() for name in expected)
    return (error / sum(value.double().square().sum() for value in expected.values())).sqrt().item()


def test_in_float32(device, every_kernel):
    loss, gradients = step("triton", device)
    expected_loss, expected = step("reference", device)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert distance(gradients, expected) < 1e-5
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_under_autocast(dtype, every_kernel):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    exact_loss, exact = step("reference", device)
    loss, gradients = step("triton", device, dtype)
    plain_loss, plain = step("reference", device, dtype)
    torch.testing.assert_close(loss, exact_loss, rtol=max(2e-3, 2 * abs(plain_loss / exact_loss - 1).item()), atol=0)
    assert distance(gradients, exact) < 2 * distance(plain, exact)
