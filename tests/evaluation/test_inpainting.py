from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdcmae import KDCMAE
from kdcmae.decoder import patchify_audio, patchify_image
from kdcmae.errors import ConfigError, DataError
from kdcmae.evaluation import inpainting
from kdcmae.evaluation.inpainting import MaskSettings, clip_errors, draw_reconstruction, inpaint, joined, summarize
from kdcmae.losses import reconstruction_loss
from kdcmae.runtime.preprocessing import Preprocessing

SMALL = {
    "audio_length": 64,
    "image_size": 64,
    "embed_dim": 64,
    "num_heads": 2,
    "specific_depth": 1,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
}


def model(**overrides: Any) -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", **{**SMALL, "norm_pix": False, **overrides}).eval()


def batch(clips: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "audio": torch.randn(clips, 64, 128, generator=generator) + 1,
        "image": torch.randn(clips, 3, 64, 64, generator=generator),
        "index": torch.arange(clips) + 10,
    }


def rows(data: dict[str, torch.Tensor], *numbers: int) -> dict[str, torch.Tensor]:
    return {name: values[list(numbers)] for name, values in data.items()}


@pytest.mark.parametrize("norm_pix", [False, True])
def test_errors_are_the_training_loss_over_removed_patches(norm_pix: bool) -> None:
    network, data, masks = model(norm_pix=norm_pix), batch(), MaskSettings()
    result = summarize(inpaint(network, [data], masks), norm_pix=norm_pix)
    pair = inpainting._pair(network, data["audio"], data["index"], masks)
    with torch.no_grad():
        (latents,) = network.encode(data["audio"], data["image"], [pair])
        audio, video = network.decode(latents.joint, pair.audio, pair.video)
    expected = reconstruction_loss(audio, patchify_audio(data["audio"]), pair.audio.mask, norm_pix=norm_pix)
    assert result.audio_mse == pytest.approx(expected.item(), rel=1e-5)
    expected = reconstruction_loss(video, patchify_image(data["image"]), pair.video.mask, norm_pix=norm_pix)
    assert result.video_mse == pytest.approx(expected.item(), rel=1e-5)
    assert (result.clips, result.norm_pix) == (4, norm_pix)
    assert result.audio_constant_mse == pytest.approx(1.0, abs=0.05)  # the variance of the noise, not its mean


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_perfect_prediction_gives_the_input_back(norm_pix: bool) -> None:
    network, data = model(norm_pix=norm_pix), batch()
    targets = [patchify_audio(data["audio"]), patchify_image(data["image"])]
    if norm_pix:
        targets = [(t - t.mean(-1, keepdim=True)) / (t.var(-1, keepdim=True) + 1e-6).sqrt() for t in targets]
    network.decode = lambda *_: tuple(targets)  # type: ignore[method-assign,assignment]
    (one,) = inpaint(network, [data], MaskSettings())
    torch.testing.assert_close(one.audio.filled, data["audio"])
    torch.testing.assert_close(one.image.filled, data["image"])
    result = summarize([one], norm_pix=norm_pix)
    assert max(result.audio_mse, result.video_mse) < 1e-9


def test_visible_patches_stay_and_removed_ones_are_predicted() -> None:
    data = batch()
    (one,) = inpaint(model(), [data], MaskSettings())
    for part, given in ((one.audio, data["audio"]), (one.image, data["image"])):
        torch.testing.assert_close(part.given, given)
        assert torch.equal(part.filled[~part.removed], given[~part.removed])
        assert not torch.isclose(part.filled[part.removed], given[part.removed]).any(dim=0).all()
        assert part.removed.float().mean().item() == pytest.approx(0.75)


def test_a_clip_counts_the_same_in_any_batch() -> None:
    network, data = model(), batch()
    together = list(inpaint(network, [data], MaskSettings()))
    apart = list(inpaint(network, [rows(data, 2), rows(data, 0, 3), rows(data, 1)], MaskSettings()))
    assert torch.equal(apart[0].audio.removed[0], together[0].audio.removed[2])
    torch.testing.assert_close(apart[1].image.error, together[0].image.error[[0, 3]])
    assert summarize(apart, norm_pix=False).audio_mse == pytest.approx(
        summarize(together, norm_pix=False).audio_mse, rel=1e-5
    )


def test_masks_differ_between_clips_and_seeds() -> None:
    network, data = model(), batch()
    (first,) = inpaint(network, [data], MaskSettings())
    (second,) = inpaint(network, [data], MaskSettings(seed=1))
    assert not torch.equal(first.audio.removed[0], first.audio.removed[1])
    assert not torch.equal(first.audio.removed, second.audio.removed)


@pytest.mark.parametrize(("axes", "whole"), [("time", "columns"), ("frequency", "rows")])
def test_structured_masks_remove_whole_columns_or_rows(axes: Any, whole: str) -> None:
    (one,) = inpaint(model(), [batch()], MaskSettings(audio=axes))
    removed = one.audio.removed
    other = 2 if whole == "columns" else 1
    assert torch.equal(removed.all(dim=other), removed.any(dim=other))
    assert removed.float().mean().item() == pytest.approx(0.75)


def test_the_pictures() -> None:
    data = batch(2)
    data["audio"][1, :, :16] = 9.0  # low frequencies are loudest
    (one,) = inpaint(model(), [data], MaskSettings(ratio=0.5))
    pictures = joined(draw_reconstruction(one, 1, Preprocessing(image_size=64)))
    audio, image = pictures["audio"], pictures["image"]
    assert audio.shape == (128, 3 * 64 + 2 * 4, 3)
    assert image.shape == (64, 3 * 64 + 2 * 4, 3)
    assert audio[-16:, :64].mean() > 200 > audio[:-16, :64].mean()  # at the bottom
    given, left, filled = image[:, :64], image[:, 68:132], image[:, 136:]
    removed = one.image.removed[1, 0].numpy()
    assert (left[removed] == 128).all()
    np.testing.assert_array_equal(left[~removed], given[~removed])
    np.testing.assert_array_equal(filled[~removed], given[~removed])
    assert (filled[removed] != given[removed]).mean() > 0.5
    left = audio[:, 68:132]
    assert ((left == 128).all(axis=2) == one.audio.removed[1].numpy().T[::-1]).all()


def test_padding_is_not_drawn() -> None:
    preprocessing = Preprocessing(image_size=64)
    data = batch(2)
    data["audio"][1, 40:] = -preprocessing.fbank_mean / preprocessing.fbank_std
    (one,) = inpaint(model(), [data], MaskSettings(ratio=0.5))
    for row, frames in ((0, 64), (1, 40)):
        drawn = draw_reconstruction(one, row, preprocessing)
        sounds = [shown for kind, shown in drawn.items() if kind.startswith("sound")]
        assert {shown.picture.shape for shown in sounds} == {(128, frames, 3)}
        assert {shown.seconds for shown in sounds} == {frames / 100}


def test_the_errors_of_clips_average_to_those_of_all() -> None:
    (one,) = inpaint(model(), [batch(3)], MaskSettings())
    result = summarize([one], norm_pix=False)
    for name in clip_errors(one, 0):
        mean = np.mean([clip_errors(one, row)[name] for row in range(3)])
        assert mean == pytest.approx(getattr(result, name), rel=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_that_removes_nothing_or_all(ratio: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        MaskSettings(ratio=ratio)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="no clips"):
        summarize([], norm_pix=False)
    data = batch()
    data["audio"][0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        summarize(inpaint(model(), [data], MaskSettings()), norm_pix=False)
