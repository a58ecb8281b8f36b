from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.compile.lowering import DTYPES, lower
from kdcmae.compile.parity import TOLERANCE


@pytest.fixture(scope="module")
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=5, audio_length=128, image_size=64).eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(2, 128, 128, generator=generator),
        "image": torch.randn(2, 3, 64, 64, generator=generator),
    }


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("given", [("audio", "image"), ("audio",), ("image",)])
@torch.inference_mode()
def test_lowered_stays_within_the_precision_tolerance(precision, given, classifier, inputs):
    feed = {name: inputs[name] for name in given}
    expected = classifier(**feed)
    lowered = lower(classifier, precision)(**feed)
    assert lowered.dtype == torch.float32
    assert (lowered - expected).abs().max() / expected.abs().max() < TOLERANCE[precision]


@torch.inference_mode()
def test_the_original_is_left_alone(classifier, inputs):
    before = classifier(**inputs)
    lower(classifier, "fp16")
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}
    assert torch.equal(classifier(**inputs), before)


@torch.inference_mode()
def test_large_activations_do_not_overflow_the_norms(classifier, inputs):
    """A residual stream of 1e4 squares to more than fp16 holds; LayerNorm in float32 does not mind."""
    model = lower(classifier, "fp16")
    norm = model.blocks_a[0].norm1
    huge = torch.full((1, 4, 128), 1e4, dtype=torch.float16)
    huge[..., ::2] = -1e4
    assert norm(huge).isfinite().all()
    assert norm(huge).abs().max() == 1


@pytest.mark.parametrize(("precision", "stream"), [("fp16", torch.float16), ("bf16", torch.float32)])
@torch.inference_mode()
def test_the_residual_stream_is_float32_in_bf16_as_in_training(precision, stream, classifier, inputs):
    model = lower(classifier, precision)
    seen = []
    for name in ("patch_embed_a", "blocks_a.0", "blocks_a.0.mlp.fc2"):
        model.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    model(**inputs)
    assert seen == [stream, DTYPES[precision], stream]  # a block ends after its MLP
