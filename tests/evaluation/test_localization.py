from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcmae import KDCMAE
from kdcmae.errors import DataError
from kdcmae.evaluation import localization
from kdcmae.evaluation.localization import (
    Heat,
    clip_scores,
    draw_heat,
    heatmap,
    localize,
    patch_features,
    sound_features,
    summarize,
)
from kdcmae.runtime.preprocessing import Preprocessing

SIZE = 64


@pytest.fixture(scope="module")
def model() -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset(
        "tiny", audio_length=64, image_size=SIZE, embed_dim=64, num_heads=2, specific_depth=1
    ).eval()


def batch(clips: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "audio": torch.randn(clips, 64, 128, generator=generator),
        "image": torch.randn(clips, 3, SIZE, SIZE, generator=generator),
        "index": torch.arange(clips),
    }


def squares(*corners: tuple[int, int], side: int = 24) -> torch.Tensor:
    masks = torch.zeros(len(corners), SIZE, SIZE, dtype=torch.bool)
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + side, column : column + side] = True
    return masks


def heat(values: torch.Tensor, masks: torch.Tensor | None, other: torch.Tensor | None = None) -> Heat:
    other = values if other is None else other
    return Heat(
        torch.arange(len(values)), torch.zeros(len(values), 3, SIZE, SIZE), values.float(), other.float(), masks
    )


def test_the_heatmap_compares_each_patch_by_itself_with_the_sound_and_the_picture(model: KDCMAE) -> None:
    data = batch()
    with torch.no_grad():
        fit = heatmap(patch_features(model, data["image"]), sound_features(model, data["audio"]))
        sound = F.normalize(model.forward_features(data["audio"], data["image"])[0].mean(dim=1), dim=-1)
        alone = [model.video_tokens(data["image"], torch.full((1, 3, 1), place)) for place in range(16)]
        patches = [F.normalize(model.unified(token, "video")[:, 0], dim=-1) for token in alone]
    assert fit.shape == (3, 16)
    for place, patch in enumerate(patches):
        others = torch.stack([(patch * other).sum(dim=1) for other in patches]).mean(dim=0)
        torch.testing.assert_close(fit[:, place], (patch * sound).sum(dim=1) - others)


def test_heat_covers_the_frame_and_peaks_where_the_heatmap_does(model: KDCMAE, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = torch.full((3, 4, 4), -0.3)
    coarse[0, 1, 2] = coarse[1, 3, 0] = coarse[2, 0, 3] = 0.2
    monkeypatch.setattr(localization, "heatmap", lambda *_: coarse.flatten(1))
    (one,) = localize(model, [batch()])
    assert one.mask is None
    assert one.heat.shape == (3, SIZE, SIZE)
    assert torch.equal(one.heat.amin(dim=(1, 2)), torch.zeros(3))
    assert torch.equal(one.heat.amax(dim=(1, 2)), torch.ones(3))
    peaks = one.heat.flatten(1).argmax(dim=1)
    assert torch.equal(peaks // SIZE // 16 * 4 + peaks % SIZE // 16, torch.tensor([6, 12, 3]))
    assert one.heat[0, 16:32, 32:48].mean() > 0.5 > one.heat[0].mean()
    assert one.heat[0, :, :16].max() < 1e-6


@pytest.mark.parametrize("sizes", [(4,), (2, 1, 1)])
def test_the_other_sound_is_that_of_the_clip_before(model: KDCMAE, sizes: tuple[int, ...]) -> None:
    whole = batch(4)
    split = {name: tensor.split(sizes) for name, tensor in whole.items()}
    batches = [{name: parts[number] for name, parts in split.items()} for number in range(len(sizes))]
    other = torch.cat([one.other_heat for one in localize(model, batches)])
    order = torch.tensor([sizes[0] - 1, 0, 1, 2])  # the first one has none before it
    (expected,) = localize(model, [{**whole, "audio": whole["audio"][order]}])
    torch.testing.assert_close(other, expected.heat)


def test_the_other_sound_has_scores_of_its_own() -> None:
    masks = squares((0, 0), (0, 40))
    result = summarize([heat(masks, masks, other=masks.flip(0)), heat(masks, masks, other=masks)])
    assert (result.ciou, result.pointing) == (1.0, 1.0)
    assert (result.other_sound.ciou, result.other_sound.pointing) == (0.5, 0.5)
    assert 0.5 < result.other_sound.auc < result.auc


def test_heat_on_the_object_scores_full_marks_and_beats_the_centre_box() -> None:
    masks = squares((0, 0), (0, 40), (40, 0), (40, 40))
    result = summarize([heat(masks[:3], masks[:3]), heat(masks[3:], masks[3:])])
    assert (result.clips, result.ciou, result.pointing) == (4, 1.0, 1.0)
    assert result.auc == pytest.approx(1.0)
    assert result.centre_box.ciou == 0.0
    assert result.centre_box.pointing == 0.0
    assert 0 < result.centre_box.auc < 0.3


def test_objects_in_the_centre_are_found_by_the_baseline() -> None:
    masks = squares((20, 20), (20, 20))
    result = summarize([heat(squares((0, 0), (0, 0)), masks)])
    assert result.ciou == 0.0
    assert result.centre_box.ciou == 1.0
    assert result.centre_box.pointing == 1.0
    assert result.centre_box.side == pytest.approx(24 / SIZE, abs=0.05)


def test_success_is_counted_over_thresholds() -> None:
    # Regions of 24 x 24 shifted by 8 columns overlap with an IoU of 16 / 32, by 16 with 8 / 40.
    masks = squares((0, 0), (0, 0), (0, 0))
    result = summarize([heat(squares((0, 0), (0, 8), (0, 16)), masks)])
    assert result.ciou == pytest.approx(2 / 3)
    success = [np.mean([iou >= threshold for iou in (1, 0.5, 0.2)]) for threshold in np.linspace(0, 1, 21)]
    assert result.auc == pytest.approx(np.trapezoid(success, dx=0.05))


def test_the_region_is_where_the_heat_is_at_least_half() -> None:
    masks = squares((0, 0))
    weak = torch.where(masks, 1.0, 0.49)
    assert summarize([heat(weak, masks)]).ciou == 1.0
    assert summarize([heat(torch.where(masks, 1.0, 0.5), masks)]).ciou == 0.0


def test_clips_whose_object_is_out_of_the_frame_do_not_count() -> None:
    masks = squares((0, 0), (0, 0))
    masks[1] = False
    assert summarize([heat(masks, masks)]).clips == 1
    with pytest.raises(DataError, match="no clip shows a sounding object"):
        summarize([heat(masks[1:], masks[1:])])


def test_without_the_truth_nothing_is_scored(model: KDCMAE) -> None:
    with pytest.raises(DataError, match="no masks"):
        summarize(localize(model, [batch()]))
    with pytest.raises(DataError, match="no clip"):
        summarize([])
    damaged = {**batch(), "mask": squares((0, 0), (0, 0), (0, 0))}
    damaged["audio"][0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        summarize(localize(model, [damaged]))


def test_the_picture() -> None:
    masks = squares((0, 0))
    pictures = draw_heat(heat(masks, masks), 0, Preprocessing(image_size=SIZE))
    frame, hot = pictures["frame"].picture, pictures["heat"].picture
    assert frame.shape == hot.shape == (SIZE, SIZE, 3)
    green = (frame == (64, 255, 64)).all(axis=2)
    assert green.sum() == 2 * 24 - 1  # the inner edge, but not along the border of the frame
    np.testing.assert_array_equal(green, (hot == (64, 255, 64)).all(axis=2))
    assert hot[5, 5].mean() > hot[50, 50].mean() + 50


def test_the_region_is_outlined_in_white_over_the_heat() -> None:
    found = heat(squares((0, 0)), squares((30, 30)))
    hot = draw_heat(found, 0, Preprocessing(image_size=SIZE))["heat"].picture
    region = (found.heat[0] >= 0.5).numpy()
    white = (hot == 255).all(axis=2)
    assert white.any()
    assert region[white].all()


def test_the_scores_of_a_clip() -> None:
    one = heat(squares((0, 0), (0, 0), (4, 4)), squares((0, 0), (40, 40), (0, 0)))
    right, wrong, near = (clip_scores(one, row) for row in range(3))
    assert right == {"iou": 1.0, "peak_on_object": True}
    assert wrong == {"iou": 0.0, "peak_on_object": False}
    assert 0.4 < near["iou"] < 0.8
    unseen = heat(squares((0, 0)), torch.zeros(1, SIZE, SIZE, dtype=torch.bool))
    assert clip_scores(unseen, 0) == {"iou": None, "peak_on_object": None}
