"""The model reproduces the published model's numbers from the published file formats."""

from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAE, KDCMAEClassifier, load_classifier, load_pretrained, losses
from kdcmae.decoder import patchify_audio, patchify_image
from kdcmae.masking import View
from kdcmae.pretraining import MaskedPair


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """The golden tolerance: 1e-4 relative to the largest value."""
    error = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert error < 1e-4, f"relative error {error:.2e}"


@pytest.fixture(scope="module")
def model(golden) -> KDCMAE:
    return load_pretrained(golden / "cavmae_pretrain.pth", num_heads=3, decoder_num_heads=2).eval()


@pytest.fixture(scope="module")
def pair(golden_outputs) -> MaskedPair:
    return MaskedPair(
        audio=View.from_ids_restore(golden_outputs["ids_restore_audio"], 128),
        video=View.from_ids_restore(golden_outputs["ids_restore_video"], 49),
    )


@torch.no_grad()
def test_unmasked_features(model, golden_inputs, golden_outputs):
    audio, video = model.forward_features(**golden_inputs)
    assert_close(audio.mean(dim=1), golden_outputs["feat_audio"])
    assert_close(video.mean(dim=1), golden_outputs["feat_video"])
    assert_close(audio[:, ::32], golden_outputs["feat_audio_tokens"])
    assert_close(video[:, ::14], golden_outputs["feat_video_tokens"])


def test_view_from_published_mask(pair, golden_outputs):
    assert torch.equal(pair.audio.mask, golden_outputs["mask_audio"].float())
    assert torch.equal(pair.video.mask, golden_outputs["mask_video"].float())


@torch.no_grad()
def test_masked_latents_and_losses(model, pair, golden_inputs, golden_outputs):
    (latents,) = model.encode(golden_inputs["audio"], golden_inputs["image"], [pair])
    assert_close(latents.joint, golden_outputs["joint_latent"])
    assert_close(latents.audio, golden_outputs["contrastive_audio"])
    assert_close(latents.video, golden_outputs["contrastive_video"])
    for direction, bidirectional in (("video_to_audio", False), ("bidirectional", True)):
        loss = losses.contrastive_loss(latents.audio, latents.video, bidirectional=bidirectional)
        accuracy = losses.contrastive_accuracy(latents.audio, latents.video, bidirectional=bidirectional)
        assert_close(loss, golden_outputs[f"contrastive_loss_{direction}"])
        assert_close(accuracy, golden_outputs[f"contrastive_acc_{direction}"])


@torch.no_grad()
def test_reconstruction(model, pair, golden_inputs, golden_outputs):
    (latents,) = model.encode(golden_inputs["audio"], golden_inputs["image"], [pair])
    audio, video = model.decode(latents.joint, pair.audio, pair.video)
    assert_close(audio[:, ::8], golden_outputs["pred_audio_f32"])
    assert_close(video[:, ::8], golden_outputs["pred_video_f32"])
    targets = (
        ("audio", audio, patchify_audio(golden_inputs["audio"]), pair.audio.mask),
        ("video", video, patchify_image(golden_inputs["image"]), pair.video.mask),
    )
    for name, prediction, target, mask in targets:
        for suffix, norm_pix in (("_norm_pix", True), ("", False)):
            loss = losses.reconstruction_loss(prediction, target, mask, norm_pix=norm_pix)
            assert_close(loss, golden_outputs[f"mae_loss_{name}{suffix}"])


PATHS = {
    "multimodal": ("audiovisual", ("audio", "image")),
    "audioonly": ("audio", ("audio",)),
    "videoonly": ("video", ("image",)),
    "missingaudioonly": ("audiovisual", ("audio",)),
    "missingvideoonly": ("audiovisual", ("image",)),
}


@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_classifier_paths(path, golden, golden_inputs, golden_outputs):
    modality, inputs = PATHS[path]
    model: KDCMAEClassifier = load_classifier(golden / "cavmae_finetune.pth", num_heads=3, modality=modality)
    assert_close(model(**{name: golden_inputs[name] for name in inputs}), golden_outputs[f"logits_{path}"])


def test_distillation(golden):
    import numpy as np

    with np.load(golden / "distillation.npz") as arrays:
        latents = {index: torch.from_numpy(arrays[f"latent{index}"]) for index in (1, 2, 3)}
        for first, second in ((1, 2), (1, 3), (2, 3)):
            divergence = losses.distillation_loss([latents[first], latents[second]])
            assert_close(divergence, torch.from_numpy(arrays[f"js{first}{second}"]))
