from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.errors import ConfigError, DataError
from kdcmae.keep import EnergyChoice, TokenKeep, UniformChoice, keep_tokens, kept_tokens, spread_order

grids = st.tuples(st.integers(1, 9), st.integers(1, 70))
METHODS = ("energy", "uniform")


@pytest.fixture(scope="module")
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=5, specific_depth=1, audio_length=128, image_size=64).eval()


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(3, 128, 128, generator=generator),
        "image": torch.randn(3, 3, 64, 64, generator=generator),
    }


@given(grids)
def test_every_patch_has_its_place_in_the_order(grid):
    assert spread_order(*grid).sort().values.tolist() == list(range(grid[0] * grid[1]))


def test_the_order_spreads():
    first_half = torch.zeros(64, dtype=torch.int64)
    first_half[spread_order(8, 8)[:32]] = 1
    checkerboard = (torch.arange(8)[:, None] + torch.arange(8) + 1) % 2
    assert torch.equal(first_half.view(8, 8), checkerboard)
    quarter = {(int(patch) // 8, int(patch) % 8) for patch in spread_order(8, 8)[:16]}
    assert quarter == {(row, column) for row in range(0, 8, 2) for column in range(0, 8, 2)}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_each_sample_keeps_as_many_different_patches(rows, columns, data):
    count = data.draw(st.integers(1, rows * columns))
    # Few grey levels, so that many patches have the same contrast.
    image = torch.randint(0, 3, (2, 3, rows * 4, columns * 4), generator=torch.Generator().manual_seed(count)).float()
    for choose in (UniformChoice((rows, columns), count), EnergyChoice((rows, columns), count, 4)):
        for ids in choose(image).tolist():
            assert len(set(ids)) == len(ids) == count
            assert set(ids) <= set(range(rows * columns))


def test_energy_prefers_contrast_and_breaks_ties_by_the_spread_order():
    audio = torch.zeros(1, 64, 64)
    audio[0, 16:32, 32:48] = torch.linspace(0, 1, 256).view(16, 16)  # time column 1, frequency row 2
    audio[0, 48:, :] = 5.0  # loud, but plain: as padding is
    ids = EnergyChoice((4, 4), 5, 16)(audio)[0].tolist()
    assert ids[0] == 2 * 4 + 1
    assert ids[1:] == [patch for patch in spread_order(4, 4).tolist() if patch != ids[0]][:4]


@pytest.mark.parametrize("by", METHODS)
@torch.inference_mode()
def test_a_kept_token_has_its_own_position_and_pixels(by, classifier, inputs):
    whole, kept = classifier, keep_tokens(classifier, TokenKeep(ratio=0.5, by=by))
    for name, pixels, pos_embed, modality in (
        ("patch_embed_a", inputs["audio"], whole.pos_embed_a, whole.modality_a),
        ("patch_embed_v", inputs["image"], whole.pos_embed_v, whole.modality_v),
    ):
        embed = getattr(kept, name)
        expected = getattr(whole, name)(pixels, pos_embed, modality, None)
        ids = embed.choose(pixels)
        tokens = embed(pixels, pos_embed, modality)
        assert tokens.shape[1] == expected.shape[1] // 2
        torch.testing.assert_close(tokens, expected.gather(1, ids.unsqueeze(2).expand(-1, -1, tokens.shape[2])))


def test_keeping_all_is_the_model_itself(classifier):
    assert keep_tokens(classifier, TokenKeep(ratio=1.0)) is classifier
    assert kept_tokens(classifier) is None


@pytest.mark.parametrize("by", METHODS)
@pytest.mark.parametrize("given_inputs", [("audio", "image"), ("audio",), ("image",)])
@torch.inference_mode()
def test_choosing_every_patch_computes_what_the_whole_model_computes(by, given_inputs, classifier, inputs):
    feed = {name: inputs[name] for name in given_inputs}
    kept = keep_tokens(classifier, TokenKeep(ratio=0.5, by=by))
    for embed, grid in ((kept.patch_embed_a, (8, 8)), (kept.patch_embed_v, (4, 4))):
        length = grid[0] * grid[1]
        embed.choose = UniformChoice(grid, length) if by == "uniform" else EnergyChoice(grid, length, 16)
    torch.testing.assert_close(kept(**feed), classifier(**feed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", METHODS)
@pytest.mark.parametrize("modality", ["audiovisual", "audio", "video"])
@torch.inference_mode()
def test_every_path_of_every_model_keeps_tokens(by, modality, inputs):
    torch.manual_seed(0)
    model = KDCMAEClassifier.from_preset(
        "tiny", num_classes=5, modality=modality, specific_depth=1, audio_length=128, image_size=64
    ).eval()
    kept = keep_tokens(model, TokenKeep(ratio=0.25, by=by))
    paths = {"audiovisual": [("audio", "image"), ("audio",), ("image",)], "audio": [("audio",)], "video": [("image",)]}
    for names in paths[modality]:
        logits = kept(**{name: inputs[name] for name in names})
        assert logits.shape == (3, 5)
        assert logits.isfinite().all()
    assert kept_tokens(kept) == {"ratio": 0.25, "by": by, "audio_tokens": 16, "video_tokens": 4}


@torch.inference_mode()
def test_the_weights_are_shared_and_the_model_is_left_alone(classifier, inputs):
    before = classifier(**inputs)
    kept = keep_tokens(classifier, TokenKeep(ratio=0.5, by="energy"))
    assert {id(weight) for weight in kept.parameters()} == {id(weight) for weight in classifier.parameters()}
    assert kept.config is not None
    assert kept.labels == classifier.labels
    assert not torch.equal(kept(**inputs), before)
    assert torch.equal(classifier(**inputs), before)


@torch.inference_mode()
def test_features_of_a_pretrained_model_keep_tokens_too(inputs):
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", specific_depth=1, audio_length=128, image_size=64).eval()
    audio_tokens, video_tokens = keep_tokens(model, TokenKeep(ratio=0.5, by="energy")).forward_features(**inputs)
    assert audio_tokens.shape[1] == 32
    assert video_tokens.shape[1] == 8


@torch.inference_mode()
def test_a_shorter_spectrogram_is_refused(classifier, inputs):
    kept = keep_tokens(classifier, TokenKeep(ratio=0.5, by="energy"))
    with pytest.raises(DataError, match=r"32 patches .* keeps 32 of 64"):
        kept(inputs["audio"][:, :64], inputs["image"])


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(ratio):
    with pytest.raises(ConfigError, match="share of the tokens"):
        TokenKeep(ratio=ratio)


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match="merge, energy, uniform"):
        TokenKeep(ratio=0.5, by="luck")


@given(st.integers(1, 600), st.floats(0.01, 1))
def test_the_count_is_that_of_pretraining_and_never_none(length, ratio):
    count = TokenKeep(ratio=ratio).count(length)
    assert 1 <= count <= length
    assert count == 1 or length * ratio - 1 < count <= length * ratio + 1e-6
