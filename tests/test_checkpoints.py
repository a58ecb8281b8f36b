from __future__ import annotations

import logging
import os
import pickle

import pytest
import torch

from kdcmae import KDCMAE, KDCMAEClassifier, load_classifier, load_pretrained
from kdcmae.checkpoints import init_classifier, save_checkpoint
from kdcmae.errors import CheckpointError, ConfigError

SMALLEST = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
SMALLEST_DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1}


@pytest.fixture
def classifier() -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=("a", "b", "c"), **SMALLEST).eval()


@pytest.fixture
def published(classifier, tmp_path):
    path = tmp_path / "published.pth"
    torch.save({f"module.{name}": tensor for name, tensor in classifier.state_dict().items()}, path)
    return path


def save(state, path):
    torch.save(state, path)
    return path


def test_own_checkpoint_round_trip(classifier, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(classifier, path)
    loaded = load_classifier(path)
    assert loaded.config == classifier.config
    for name, tensor in classifier.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not loaded.training
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_path_that_is_not_text(classifier, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = folder / os.fsdecode(b"mod\xe8le.safetensors")
    save_checkpoint(classifier, path)
    assert load_classifier(path).config == classifier.config
    assert os.listdir(folder) == [path.name]


def test_half_precision_checkpoint_loads_as_float32(classifier, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(classifier, path, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_classifier(path).state_dict().values()} == {torch.float32}


def test_pretraining_round_trip_keeps_positions_frozen(tmp_path):
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER)
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    loaded = load_pretrained(path, mask_ratio=0.5)
    assert loaded.config.mask_ratio == 0.5
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed_a", "pos_embed_v", "decoder_pos_embed_a", "decoder_pos_embed_v"}


def test_a_saved_file_is_no_more_private_than_others(classifier, tmp_path):
    save_checkpoint(classifier, tmp_path / "model.safetensors")
    (tmp_path / "usual").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_failed_save_keeps_the_old_file(classifier, tmp_path, fails):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"precious")
    fails("safetensors.torch.save_file", OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(classifier, path)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_published_file_is_inferred(classifier, published):
    loaded = load_classifier(published)
    assert loaded.config.audio_length == 64
    assert loaded.config.image_size == 32
    assert loaded.config.specific_depth == 1
    inputs = torch.randn(1, 64, 128), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(*inputs), classifier(*inputs))


def test_trimming_the_audio_length(published):
    loaded = load_classifier(published, audio_length=32)
    full = load_classifier(published)
    spectrogram, image = torch.randn(1, 32, 128), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded(spectrogram, image), full(spectrogram, image))
    assert load_classifier(published, audio_length=128).pos_embed_a.shape[1] == 64


def test_unused_tensors_are_reported(classifier, tmp_path, caplog):
    extra = {"kld_mlp.0.weight": torch.zeros(2), "pos_embed_probs_a": torch.zeros(1), "fc.weight": torch.zeros(1)}
    path = save({**classifier.state_dict(), **extra}, tmp_path / "extra.pth")
    with caplog.at_level(logging.INFO, logger="kdcmae"):
        load_classifier(path)
    assert "ignored 3 unused tensors: fc.weight, kld_mlp.0.weight, pos_embed_probs_a" in caplog.text


def test_tensors_that_do_not_fit_are_listed(classifier, tmp_path):
    state = dict(classifier.state_dict())
    del state["norm_a.weight"]
    state["novelty"] = torch.zeros(1)
    state["norm_v.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        load_classifier(save(state, tmp_path / "wrong.pth"))
    message = str(caught.value)
    assert "missing: norm_a.weight" in message
    assert "unexpected: novelty" in message
    assert "norm_v.bias (5,) instead of (64,)" in message


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_never_runs(writer, tmp_path):
    path = tmp_path / "bomb.pth"
    writer({"a": Bomb(str(tmp_path / "ran"))}, path)
    with pytest.raises(CheckpointError, match="refused"):
        load_classifier(path)
    assert not (tmp_path / "ran").exists()


def test_unreadable_files(published, classifier, tmp_path):
    own = tmp_path / "own.safetensors"
    save_checkpoint(classifier, own)
    for source in (published, own):
        content = source.read_bytes()
        source.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            load_classifier(source)
    text = tmp_path / "notes.pth"
    text.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="neither a PyTorch file nor safetensors"):
        load_classifier(text)
    with pytest.raises(CheckpointError, match="No such file"):
        load_classifier(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="not a state dict"):
        load_classifier(save([1, 2], tmp_path / "list.pth"))


def test_a_file_of_something_else_names_its_tensors(tmp_path):
    other = save({"conv1.weight": torch.ones(1), "fc2.bias": torch.ones(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"no pos_embed_a, .*; it holds conv1\.weight, fc2\.bias"):
        load_classifier(other)
    part = save({"pos_embed_a": torch.ones(1, 4, 4)}, tmp_path / "model-00001-of-00003.pth")
    with pytest.raises(CheckpointError, match="is part 1 of 3 of a checkpoint; join the parts"):
        load_classifier(part)
    mae = save({"patch_embed.proj.weight": torch.ones(4, 3, 16, 16)}, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=r"is a ViT or an MAE of pictures alone.*kdcmae pretrain"):
        load_classifier(mae)


def test_containers_prefixes_and_averages(classifier, tmp_path):
    state = classifier.state_dict()
    wrapped = {f"module._orig_mod.{name}": tensor.half() for name, tensor in state.items()}
    average = {f"_orig_mod.{name}": tensor.double() * 2 for name, tensor in state.items()}
    path = save({"model": {"state_dict": wrapped}, "model_ema": average, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match="choose with --weights model or --weights ema"):
        load_classifier(path)
    trained, averaged = (load_classifier(path, weights=weights).state_dict() for weights in ("model", "ema"))
    for name, tensor in state.items():
        torch.testing.assert_close(trained[name], tensor.half().float(), rtol=0, atol=0)
        torch.testing.assert_close(averaged[name], tensor * 2)


def test_published_options_that_change_the_forward_pass_are_refused(classifier, tmp_path):
    state = dict(classifier.state_dict())
    narrow = {
        "mlp_head.0.weight": torch.ones(8),
        "mlp_head.0.bias": torch.ones(8),
        "mlp_head.1.weight": torch.ones(3, 8),
    }
    layers = {"kld_mlp.0.weight": torch.ones(16, 64), "kld_mlp.2.weight": torch.ones(8, 16)}
    with pytest.raises(CheckpointError, match=r"was finetuned with kld_mlp \(kld_mlp\.0\.weight, kld_mlp\.2\.weight\)"):
        load_classifier(save({**state, **layers, **narrow}, tmp_path / "mlp.pth"))
    assert load_classifier(save({**state, **layers}, tmp_path / "unused.pth")).config == load_classifier(
        save(state, tmp_path / "plain.pth")
    ).config  # fmt: skip

    whole = KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER).state_dict()
    split = {
        name.replace(part, f"{part}_{modality}"): tensor
        for name, tensor in whole.items()
        for part in ("decoder_blocks", "decoder_norm")
        for modality in "av"
        if name.startswith(part)
    }
    rest = {name: tensor for name, tensor in whole.items() if not name.startswith(("decoder_blocks", "decoder_norm"))}
    path = save({**rest, **split, "decoder_embed_audio.weight": torch.ones(32, 64)}, tmp_path / "split.pth")
    with pytest.raises(
        CheckpointError, match=r"was pretrained with split_decoder \(decoder_blocks_a, decoder_blocks_v"
    ):
        load_pretrained(path)
    joint = save({**whole, "decoder_embed_audio.weight": torch.ones(32, 64)}, tmp_path / "joint.pth")
    assert set(load_pretrained(joint).state_dict()) == set(whole)


def test_not_finite_weights(classifier, tmp_path):
    state = dict(classifier.state_dict())
    state["norm.weight"] = torch.full_like(state["norm.weight"], float("nan"))
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in norm\.weight"):
        load_classifier(save(state, tmp_path / "nan.pth"))


def test_the_wrong_kind(classifier, published, tmp_path):
    with pytest.raises(CheckpointError, match="use load_classifier"):
        load_pretrained(published)
    own = tmp_path / "own.safetensors"
    save_checkpoint(classifier, own)
    with pytest.raises(CheckpointError, match="is a classifier checkpoint"):
        load_pretrained(own)
    pretraining = save(
        KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER).state_dict(), tmp_path / "pretraining.pth"
    )
    with pytest.raises(CheckpointError, match="finetune it first"):
        load_classifier(pretraining)


def test_wrong_overrides(published):
    with pytest.raises(ConfigError, match="did you mean 'num_heads'"):
        load_classifier(published, numheads=2)
    with pytest.raises(ConfigError, match="num_heads=7"):
        load_classifier(published, num_heads=7)


def test_heads_are_guessed_aloud(tmp_path, caplog):
    torch.manual_seed(0)
    narrow = KDCMAEClassifier.from_preset("tiny", num_classes=3, **{**SMALLEST, "embed_dim": 48, "num_heads": 3})
    path = save(narrow.state_dict(), tmp_path / "narrow.pth")
    assert load_classifier(path, num_heads=3).config.num_heads == 3
    assert "num_heads" not in caplog.text
    assert load_classifier(path).config.num_heads == 1
    assert "assuming num_heads=1" in caplog.text


def test_a_classifier_takes_the_encoder_over_and_draws_its_head():
    pretrained = KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER)
    classifier, transfer = init_classifier(pretrained, num_classes=3, modality="audio", labels=("a", "b", "c"))
    assert (classifier.config.modality, classifier.labels) == ("audio", ("a", "b", "c"))
    state, encoder = classifier.state_dict(), pretrained.state_dict()
    assert set(transfer.fresh) == {f"mlp_head.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")}
    assert set(transfer.taken) | set(transfer.fresh) == set(state)
    assert set(transfer.left) == set(encoder) - set(state)
    assert all(torch.equal(state[name], encoder[name]) for name in transfer.taken)
    assert classifier.training
    assert classifier.pos_embed_a.requires_grad
    assert state["norm.weight"].data_ptr() != encoder["norm.weight"].data_ptr()


def test_a_classifier_of_another_length_trims_the_positions():
    pretrained = KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER)
    classifier, transfer = init_classifier(pretrained, num_classes=3, audio_length=32)
    assert classifier.pos_embed_a.shape[1] == pretrained.pos_embed_a.shape[1] // 2
    assert "pos_embed_a" in transfer.taken
    with pytest.raises(CheckpointError, match=r"pos_embed_v \(1, 4, 64\) instead of \(1, 16, 64\)"):
        init_classifier(pretrained, num_classes=3, image_size=64)


def test_learned_loss_weights_are_part_of_a_checkpoint(tmp_path):
    model = KDCMAE.from_preset("tiny", **SMALLEST, **SMALLEST_DECODER, weighting="uncertainty")
    with torch.no_grad():
        model.weighting.log_sigma += 0.5
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    assert load_pretrained(path).weighting.weights == model.weighting.weights
