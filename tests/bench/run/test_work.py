"""The FLOP counted by hand against those PyTorch counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdcmae import KDCMAEClassifier
from kdcmae.bench.run.work import count_work
from kdcmae.config import ClassifierConfig

SIZES = {"embed_dim": 32, "num_heads": 2, "specific_depth": 2, "unified_depth": 2, "audio_length": 64, "image_size": 32}


@pytest.mark.parametrize(
    ("modality", "given"),
    [
        ("audiovisual", ("audio", "image")),
        ("audiovisual", ("audio",)),
        ("audiovisual", ("image",)),
        ("audio", ("audio",)),
        ("video", ("image",)),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()  # training takes products that the counter does not know either
def test_flop_equal_those_of_the_operators(modality, given, batch):
    model = KDCMAEClassifier.from_preset("tiny", num_classes=5, modality=modality, mlp_ratio=3.0, **SIZES).eval()
    inputs = {"audio": torch.randn(batch, 64, 128), "image": torch.randn(batch, 3, 32, 32)}
    # The counter knows the products that attention is made of, and not the CPU's fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**{name: inputs[name] for name in given})
    work = count_work(dataclasses.asdict(model.config), given, batch)
    assert work.flop == counter.get_total_flops()


def test_weights_are_those_of_the_matrix_products():
    model = KDCMAEClassifier.from_preset("tiny", num_classes=5, **SIZES)
    matrices = [value.numel() for name, value in model.named_parameters() if name.endswith("weight") and value.ndim > 1]
    work = count_work(dataclasses.asdict(model.config), ("audio", "image"), 1)
    assert work.weights == sum(matrices)
    assert work.traffic_bytes("fp32") == 4 * (work.weights + work.activations)
    assert work.traffic_bytes("int8") == work.weights + work.activations


def test_the_base_preset_needs_what_its_description_says():
    work = count_work(dataclasses.asdict(ClassifierConfig(num_classes=527)), ("audio", "image"), 1)
    assert work.flop == pytest.approx(132e9, rel=0.02)


def test_activations_of_a_block_grow_with_tokens_and_batch():
    config = dataclasses.asdict(ClassifierConfig(num_classes=5))
    once, twice = (count_work(config, ("audio",), batch) for batch in (1, 2))
    assert twice.activations == 2 * once.activations
    assert twice.weights == once.weights


def test_kept_tokens_count_instead_of_all():
    config = dataclasses.asdict(ClassifierConfig(num_classes=5))
    half = {**config, "kept_tokens": {"audio": 256, "image": 98}}
    given = ("audio", "image")
    assert count_work(half, given, 1).flop < 0.5 * count_work(config, given, 1).flop
    assert count_work(half, given, 1).weights == count_work(config, given, 1).weights
