from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.errors import ConfigError, DataError
from kdcmae.keep import TokenKeep, keep_tokens, kept_tokens, spread_order
from kdcmae.merging import PatchGroups, merge


def build(modality: str = "audiovisual", depth: int = 2) -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset(
        "tiny", num_classes=5, modality=modality, specific_depth=depth, audio_length=64, image_size=64
    ).eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(3, 64, 128, generator=generator),
        "image": torch.randn(3, 3, 64, 64, generator=generator),
    }


def groups_of(grid: tuple[int, int], count: int, patch_size: int = 4) -> PatchGroups:
    return PatchGroups(grid, count, patch_size, spread_order(*grid))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_every_patch_is_in_one_group_and_no_group_is_empty(rows, columns, data):
    count = data.draw(st.integers(1, rows * columns))
    image = torch.randint(0, 2, (2, 3, rows * 4, columns * 4), generator=torch.Generator().manual_seed(count)).float()
    groups = groups_of((rows, columns), count)(image)
    assert groups.shape == (2, count, rows * columns)
    assert (groups.sum(dim=1) == 1).all()
    assert (groups.sum(dim=2) >= 1).all()


def test_alike_patches_merge_and_different_ones_stay():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 4:8, 8:12] = 3.0  # patch 6 is unlike all others
    groups = groups_of((4, 4), 4)(image)[0]
    assert [int(patch) for patch in groups.sum(dim=1).eq(1).nonzero()[:, 0]]
    lonely = groups[groups[:, 6] == 1][0]
    assert lonely.sum() == 1


def test_a_merged_token_is_the_mean_of_its_patches():
    tokens = torch.arange(8.0).view(1, 4, 2)
    groups = torch.tensor([[[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
    assert merge(tokens, groups).tolist() == [[[2.0, 3.0], [2.0, 3.0], [6.0, 7.0]]]


@pytest.mark.parametrize("modality", ["audiovisual", "audio", "video"])
@pytest.mark.parametrize("depth", [0, 2])
@torch.inference_mode()
def test_as_many_groups_as_patches_is_the_whole_model(modality, depth, inputs):
    whole = build(modality, depth)
    merged = keep_tokens(whole, TokenKeep(ratio=0.5, by="merge"))
    merged.audio_groups, merged.video_groups = groups_of((8, 4), 32, 16), groups_of((4, 4), 16, 16)
    paths = {"audiovisual": [("audio", "image"), ("audio",), ("image",)], "audio": [("audio",)], "video": [("image",)]}
    for names in paths[modality]:
        feed = {name: inputs[name] for name in names}
        torch.testing.assert_close(merged(**feed), whole(**feed), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_weights_are_shared(inputs):
    whole = build()
    merged = keep_tokens(whole, TokenKeep(ratio=0.5, by="merge"))
    ours = {name: weight.data_ptr() for name, weight in whole.named_parameters()}
    assert {name: weight.data_ptr() for name, weight in merged.named_parameters()} == ours
    assert not torch.equal(merged(**inputs), whole(**inputs))
    assert kept_tokens(merged) == {"ratio": 0.5, "by": "merge", "audio_tokens": 16, "video_tokens": 8}
    assert merged.labels == whole.labels
    assert not merged.training


def test_nothing_given_is_refused():
    with pytest.raises(DataError, match="give audio or image"):
        keep_tokens(build(), TokenKeep(ratio=0.5, by="merge"))()


def test_a_model_that_does_not_classify_is_refused():
    model = KDCMAE.from_preset("tiny", specific_depth=1, audio_length=64, image_size=64)
    with pytest.raises(ConfigError, match="--keep-by energy"):
        keep_tokens(model, TokenKeep(ratio=0.5, by="merge"))
