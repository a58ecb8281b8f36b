from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.decoder import patchify_audio, patchify_image, unpatchify_audio, unpatchify_image
from kdcmae.errors import DataError
from kdcmae.losses import reconstruction_loss
from kdcmae.masking import View
from kdcmae.pretraining import MaskedPair

TINY = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "decoder_embed_dim": 32, "decoder_num_heads": 1}


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(3, 256, 128, generator=generator),
        "image": torch.randn(3, 3, 64, 64, generator=generator),
    }


def build(**overrides) -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", audio_length=256, image_size=64, decoder_depth=1, **TINY, **overrides)


def test_patchify_round_trip(batch):
    assert torch.equal(unpatchify_audio(patchify_audio(batch["audio"]), frames=256), batch["audio"])
    assert torch.equal(unpatchify_image(patchify_image(batch["image"]), height=64), batch["image"])


@pytest.mark.parametrize("views", [1, 2, 3])
def test_stacked_views_equal_views_one_by_one(batch, views):
    model = build(views=views, mask_ratio=0.75)
    pairs = model.sample_pairs(batch["audio"], torch.Generator().manual_seed(1))
    together = model.encode(**batch, pairs=pairs)
    for pair, latents in zip(pairs, together, strict=True):
        (alone,) = model.encode(**batch, pairs=[pair])
        for name in ("joint", "audio", "video"):
            torch.testing.assert_close(getattr(latents, name), getattr(alone, name), rtol=1e-4, atol=1e-5)


def test_every_trainable_parameter_gets_a_gradient(batch):
    model = build()
    output = model(**batch, generator=torch.Generator().manual_seed(1))
    output.loss.backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    # Blocks hold three pairs of norms; single-modality and decoder blocks use the shared pair only.
    assert all(".norm" in name and name.split(".")[-2][-2:] in ("_a", "_v") for name in idle)
    assert not any(name.startswith("blocks_u") for name in idle)


def test_loss_is_the_weighted_sum(batch):
    model = build()
    output = model(**batch, generator=torch.Generator().manual_seed(1))
    expected = (
        output.reconstruction_audio + output.reconstruction_video + 0.01 * output.contrastive + 10 * output.distillation
    )
    torch.testing.assert_close(output.loss, expected)
    assert output.distillation > 0


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"distillation": "none"}, {"reconstruction": 1.0, "contrastive": 0.01}),
        ({"views": 1}, {"reconstruction": 1.0, "contrastive": 0.01}),
        ({"contrastive_weight": 0.0}, {"reconstruction": 1.0, "distillation": 10.0}),
        ({"distillation": "kl"}, {"reconstruction": 1.0, "contrastive": 0.01, "distillation": 10.0}),
    ],
)
def test_objectives_by_configuration(batch, changes, counts):
    model = build(**changes)
    assert model.config.loss_weights == counts
    output = model(**batch, generator=torch.Generator().manual_seed(1))
    terms = {
        "reconstruction": output.reconstruction_audio + output.reconstruction_video,
        "contrastive": output.contrastive,
        "distillation": output.distillation,
    }
    torch.testing.assert_close(output.loss, sum(weight * terms[name] for name, weight in counts.items()))
    assert (output.distillation > 0) == ("distillation" in counts)


@pytest.mark.parametrize("distillation", ["js", "kl"])
def test_distilling_the_modalities_too_adds_their_divergences(batch, distillation):
    alone = {
        name: build(distilled_latents=(name,), distillation=distillation, distillation_temperature=0.5)(
            **batch, generator=torch.Generator().manual_seed(1)
        ).distillation
        for name in ("joint", "audio", "video")
    }
    together = build(
        distilled_latents=("joint", "audio", "video"), distillation=distillation, distillation_temperature=0.5
    )(**batch, generator=torch.Generator().manual_seed(1)).distillation
    assert len({value.item() for value in alone.values()}) == 3
    torch.testing.assert_close(together, sum(alone.values()))


def test_losses_do_not_lose_precision_under_autocast(batch):
    model = build()
    pairs = model.sample_pairs(batch["audio"], torch.Generator().manual_seed(1))
    exact = model(**batch, pairs=pairs)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch, pairs=pairs)
    for name in ("loss", "contrastive", "distillation"):
        value = getattr(output, name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, getattr(exact, name), rtol=0.1, atol=0.0)


def test_a_few_steps_learn(batch):
    model = build()
    optimiser = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    history = []
    for step in range(12):
        loss = model(**batch, generator=torch.Generator().manual_seed(step % 2)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("audio_mask", ["time", "frequency", "time_frequency"])
def test_structured_masks(batch, audio_mask):
    model = build(audio_mask=audio_mask, complementary=False)
    assert model(**batch, generator=torch.Generator().manual_seed(1)).loss.isfinite()


def test_the_decoder_does_not_depend_on_the_order_of_visible_tokens(batch):
    """A token keeps its place by its position alone, so that every view's predictions come back in pixel order."""
    model = build(views=1)
    (pair,) = model.sample_pairs(batch["audio"], torch.Generator().manual_seed(3))
    order = torch.randperm(pair.audio.ids_keep.shape[1], generator=torch.Generator().manual_seed(4))
    ids_restore = torch.cat([pair.audio.ids_keep[:, order], pair.audio.ids_removed.flip(1)], dim=1).argsort(dim=1)
    other = MaskedPair(View.from_ids_restore(ids_restore, len(order)), pair.video)
    predicted = [
        model.decode(latents.joint, one.audio, one.video)
        for one in (pair, other)
        for latents in model.encode(**batch, pairs=[one])
    ]
    for first, second in zip(*predicted, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_removed_patches_are_decoded_as_among_all_patches(batch):
    model = build(views=2)
    pairs = model.sample_pairs(batch["audio"], torch.Generator().manual_seed(3))
    for pair, latents in zip(pairs, model.encode(**batch, pairs=pairs), strict=True):
        every = model.decode(latents.joint, pair.audio, pair.video)
        removed = model.decode_removed(latents.joint, pair.audio, pair.video)
        for patches, some, view in zip(every, removed, (pair.audio, pair.video), strict=True):
            sample = torch.arange(len(patches)).unsqueeze(1)
            torch.testing.assert_close(some, patches[sample, view.ids_removed], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstruction_is_the_loss_over_all_patches_summed_over_views(batch, norm_pix):
    model = build(views=3, norm_pix=norm_pix)
    pairs = model.sample_pairs(batch["audio"], torch.Generator().manual_seed(3))
    output = model(**batch, pairs=pairs)
    expected_audio = expected_video = 0.0
    for pair, latents in zip(pairs, model.encode(**batch, pairs=pairs), strict=True):
        audio, video = model.decode(latents.joint, pair.audio, pair.video)
        targets = patchify_audio(batch["audio"]), patchify_image(batch["image"])
        expected_audio += reconstruction_loss(audio, targets[0], pair.audio.mask, norm_pix=norm_pix)
        expected_video += reconstruction_loss(video, targets[1], pair.video.mask, norm_pix=norm_pix)
    torch.testing.assert_close(output.reconstruction_audio, expected_audio)
    torch.testing.assert_close(output.reconstruction_video, expected_video)


def test_shorter_audio_uses_the_first_columns(batch):
    model = build()
    short = model(audio=batch["audio"][:, :128], image=batch["image"], generator=torch.Generator().manual_seed(1))
    assert short.loss.isfinite()


@pytest.mark.parametrize("shape", [(3, 250, 128), (3, 256, 64), (3, 512, 128), (3, 0, 128), (256, 128)])
def test_wrong_audio_shapes(batch, shape):
    with pytest.raises(DataError, match="audio has shape"):
        build().forward_features(torch.zeros(shape), batch["image"])


def test_wrong_image_shape(batch):
    with pytest.raises(DataError, match="image has shape"):
        build().forward_features(batch["audio"], torch.zeros(3, 3, 32, 64))


@pytest.mark.parametrize(("modality", "given"), [("audio", "image"), ("video", "audio")])
def test_a_classifier_names_the_input_it_needs(modality, given, batch):
    model = KDCMAEClassifier.from_preset("tiny", num_classes=2, modality=modality, audio_length=256, image_size=64)
    with pytest.raises(DataError, match=f"finetuned on {modality}"):
        model(**{given: batch[given]})
