from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAE
from kdcmae.checkpoints import save_checkpoint
from kdcmae.errors import CheckpointError, ConfigError
from kdcmae.training.initialise import start_finetuning, start_pretraining


@pytest.fixture
def mae(random_runs) -> dict[str, torch.Tensor]:
    return random_runs.image_mae()


def saved(tensors, path):
    torch.save({"model": tensors}, path)
    return path


def test_an_image_mae_fills_every_place_it_should(mae, random_runs, tmp_path):
    sizes = {**random_runs.SIZES, **random_runs.DECODER}
    model, transfer = start_pretraining(saved(mae, tmp_path / "mae.pth"), preset="tiny", sizes=sizes, overrides={})
    state = model.state_dict()
    sources = {
        "blocks_a.0.attn.qkv.weight": mae["blocks.0.attn.qkv.weight"],
        "blocks_v.0.attn.qkv.weight": mae["blocks.0.attn.qkv.weight"],
        "blocks_u.0.attn.qkv.weight": mae["blocks.1.attn.qkv.weight"],
        "blocks_u.0.norm1.weight": mae["blocks.1.norm1.weight"],
        "blocks_u.0.norm1_a.weight": mae["blocks.1.norm1.weight"],
        "blocks_u.0.norm2_v.bias": mae["blocks.1.norm2.bias"],
        "norm.weight": mae["norm.weight"],
        "norm_a.weight": mae["norm.weight"],
        "norm_v.bias": mae["norm.bias"],
        "patch_embed_v.proj.weight": mae["patch_embed.proj.weight"],
        "patch_embed_a.proj.weight": mae["patch_embed.proj.weight"].sum(1, keepdim=True),
        "patch_embed_a.proj.bias": mae["patch_embed.proj.bias"],
        "pos_embed_v": mae["pos_embed"][:, 1:],
        "decoder_pos_embed_v": mae["decoder_pos_embed"][:, 1:],
        "decoder_pred_v.weight": mae["decoder_pred.weight"],
        "decoder_pred_a.weight": mae["decoder_pred.weight"][:256],
        "decoder_pred_a.bias": mae["decoder_pred.bias"][:256],
        "decoder_blocks.0.mlp.fc1.bias": mae["decoder_blocks.0.mlp.fc1.bias"],
        "mask_token": mae["mask_token"],
    }
    for name, tensor in sources.items():
        assert torch.equal(state[name], tensor), name
    assert set(transfer.left) == {"cls_token"}
    fresh = {name for name in transfer.fresh if ".norm" not in name}
    assert fresh == {
        *("modality_a", "modality_v", "decoder_modality_a", "decoder_modality_v"),
        *("pos_embed_a", "decoder_pos_embed_a"),
    }
    # Of the norms, only those that a stage never uses stay as they were.
    assert all(name.split(".")[2][-2:] in ("_a", "_v") and "blocks_u" not in name for name in transfer.fresh[-8:])
    assert set(transfer.taken) | set(transfer.fresh) == set(state)


def test_an_mae_of_another_shape_is_named(mae, random_runs, tmp_path):
    sizes = {**random_runs.SIZES, **random_runs.DECODER}
    path = saved(mae, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match="2 blocks, the model 3 specific and 1 unified"):
        start_pretraining(path, preset="tiny", sizes=sizes, overrides={"specific_depth": 3})
    with pytest.raises(CheckpointError, match=r"pos_embed_v \(1, 4, 64\) instead of \(1, 16, 64\)"):
        start_pretraining(path, preset="tiny", sizes=sizes, overrides={"image_size": 64})
    encoder = {name: tensor for name, tensor in mae.items() if "decoder" not in name}
    with pytest.raises(CheckpointError, match=r"no decoder_pos_embed, decoder_pred\.weight"):
        start_pretraining(saved(encoder, path), preset="tiny", sizes=sizes, overrides={})


def test_going_on_from_a_pretraining_takes_its_sizes_and_new_objectives(random_runs, tmp_path):
    earlier = KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER, mask_ratio=0.5)
    save_checkpoint(earlier, tmp_path / "earlier.safetensors")
    path = tmp_path / "earlier.safetensors"
    model, transfer = start_pretraining(
        path, preset="base", sizes={"image_size": 112}, overrides={"weighting": "uncertainty"}
    )
    assert (model.config.embed_dim, model.config.mask_ratio, model.config.weighting) == (64, 0.5, "uncertainty")
    assert transfer.fresh == ("weighting.log_sigma",)
    assert transfer.left == ()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in earlier.state_dict().items())
    classifier, transfer = start_finetuning(
        path, preset="base", sizes={"image_size": 112}, overrides={"num_classes": 5, "modality": "audio"}
    )
    assert (classifier.config.image_size, classifier.config.modality, classifier.config.num_classes) == (32, "audio", 5)
    assert set(transfer.fresh) == {f"mlp_head.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")}


def test_of_two_sets_of_weights_the_request_chooses(random_runs, mae, tmp_path):
    earlier = KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER).state_dict()
    average = {name: tensor + 1 for name, tensor in earlier.items()}
    path, heads = tmp_path / "run.pth", {"num_heads": 1, "decoder_num_heads": 1}
    torch.save({"state_dict": earlier, "ema": average}, path)
    with pytest.raises(CheckpointError, match="choose with --weights"):
        start_pretraining(path, preset="tiny", sizes={}, overrides=heads)
    model, _ = start_pretraining(path, preset="tiny", sizes={}, overrides=heads, weights="ema")
    assert torch.equal(model.state_dict()["norm.weight"], average["norm.weight"])
    classifier, _ = start_finetuning(
        path, preset="tiny", sizes={}, overrides={"num_heads": 1, "num_classes": 5}, weights="model"
    )
    assert torch.equal(classifier.state_dict()["norm.weight"], earlier["norm.weight"])


def test_fresh_weights_and_unknown_settings():
    sizes = {"embed_dim": 64, "num_heads": 1}
    model, transfer = start_pretraining(None, preset="tiny", sizes=sizes, overrides={"views": 3})
    assert transfer is None
    assert (model.config.embed_dim, model.config.views) == (64, 3)
    classifier, transfer = start_finetuning(None, preset="tiny", sizes=sizes, overrides={"num_classes": 5})
    assert transfer is None
    assert (classifier.config.embed_dim, classifier.config.num_classes) == (64, 5)
    with pytest.raises(ConfigError, match="did you mean 'mask_ratio'"):
        start_pretraining(None, preset="tiny", sizes={}, overrides={"mask_ration": 0.5})
