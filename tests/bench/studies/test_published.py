"""The published formulation computes what the model computes."""

from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAE, ops
from kdcmae.bench.studies.published import PublishedKDCMAE, dense_embed_patches, explicit_attention, fused_attention

SMALL = {
    "embed_dim": 48,
    "num_heads": 2,
    "specific_depth": 2,
    "unified_depth": 2,
    "decoder_embed_dim": 32,
    "decoder_num_heads": 2,
    "decoder_depth": 1,
    "image_size": 64,
    "audio_length": 96,
}


def small_model(**overrides: object) -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", **{**SMALL, **overrides})


def batch(frames: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, frames, 128, generator=generator), torch.randn(3, 3, 64, 64, generator=generator)


@pytest.mark.parametrize("attend", [explicit_attention, fused_attention])
@pytest.mark.parametrize(
    ("overrides", "frames"),
    [({}, 96), ({}, 48), ({"views": 3}, 96), ({"views": 1, "norm_pix": False}, 96), ({"bidirectional": True}, 96)],
)
def test_losses_and_gradients_are_the_models(attend, overrides, frames):
    model = small_model(**overrides)
    published = PublishedKDCMAE.sharing(model, attend)
    audio, image = batch(frames)
    pairs = model.sample_pairs(audio, torch.Generator().manual_seed(2))
    ours, theirs = model(audio, image, pairs=pairs), published(audio, image, pairs=pairs)
    for name, value in vars(ours).items():
        torch.testing.assert_close(getattr(theirs, name), value, rtol=1e-5, atol=1e-6, msg=name)
    ours.loss.backward()
    theirs.loss.backward()
    gradients = {name: parameter.grad for name, parameter in published.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert gradients[name] is None
        else:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_weights_are_shared_and_gradients_are_not():
    model = small_model().eval()
    published = PublishedKDCMAE.sharing(model)
    assert not published.training
    theirs = dict(published.named_parameters())
    assert theirs.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert theirs[name].data_ptr() == parameter.data_ptr()
        assert theirs[name].requires_grad == parameter.requires_grad
    published(*batch()).loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_gets_copies_of_queries_keys_and_values():
    seen = []

    def attend(q, k, v):
        seen.extend(tensor.is_contiguous() for tensor in (q, k, v))
        return explicit_attention(q, k, v)

    model = small_model()
    PublishedKDCMAE.sharing(model, attend)(*batch())
    blocks = 2 * 2 + 3 * 2 + 1  # of audio and video, three times the unified ones, the decoder's
    assert seen == [True] * (3 * 2 * blocks)


@pytest.mark.parametrize("shape", [(2, 48, 32), (2, 3, 48, 32)])
@pytest.mark.parametrize("kept", [None, 2])
def test_dense_embedding_is_the_masked_embedding(shape, kept):
    generator = torch.Generator().manual_seed(0)
    channels = 1 if len(shape) == 3 else 3
    sizes = (shape, (12, channels, 16, 16), (12,), (1, 6, 12), (1, 1, 12))
    arguments = [torch.randn(size, generator=generator) for size in sizes]
    ids = None if kept is None else torch.rand(3, 2, 6, generator=generator).argsort(dim=-1)[..., :kept]
    found = dense_embed_patches(*arguments, ids)
    torch.testing.assert_close(found, ops.embed_patches(*arguments, ids), rtol=1e-4, atol=1e-4)
