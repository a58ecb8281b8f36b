from __future__ import annotations

import pytest
import torch

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.training.tasks import FinetuningTask, PretrainingTask, seeded_pairs

CLIPS = 5


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "audio": torch.randn(CLIPS, 64, 128, generator=generator),
        "image": torch.randn(CLIPS, 3, 32, 32, generator=generator),
        "target": torch.tensor([[1.0, 0.0, 0.0]] * 2 + [[0.0, 1.0, 0.0]] * 2 + [[0.3, 0.0, 0.7]]),
        "index": torch.tensor([7, 3, 11, 0, 5]),
    }


@pytest.fixture
def model(random_runs) -> KDCMAE:
    torch.manual_seed(0)
    return KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER)


@pytest.mark.parametrize("changes", [{}, {"complementary": False}, {"complementary": False, "audio_mask": "time"}])
def test_masks_depend_on_the_clip_and_not_on_its_batch(changes, random_runs, batch):
    model = KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER, **changes)
    together = seeded_pairs(model, batch, (0, 1))
    order = [3, 0, 4]
    apart = seeded_pairs(model, {name: tensor[order] for name, tensor in batch.items()}, (0, 1))
    for pair, other in zip(together, apart, strict=True):
        for modality in ("audio", "video"):
            ids = getattr(pair, modality).ids_restore
            assert torch.equal(ids[order], getattr(other, modality).ids_restore)
            assert not torch.equal(ids[0], ids[1])


def test_masks_change_with_the_draw_and_the_seed(model, batch):
    drawn = [seeded_pairs(model, batch, seeds)[0].audio.ids_restore for seeds in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_pretraining_reports_the_model_s_losses(model, batch):
    score = PretrainingTask(model, seed=0).score(model, batch, draw=3)
    output = model(batch["audio"], batch["image"], pairs=seeded_pairs(model, batch, (0, 3)))
    assert torch.equal(score.loss, output.loss)
    assert torch.equal(score.metrics["distillation"], output.distillation)
    assert not any(value.requires_grad for value in score.metrics.values())


class Fixed(torch.nn.Module):
    """Gives the same logits for whatever it is called with."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        self.inputs = set(inputs)
        return self.logits


@pytest.mark.parametrize(
    ("modality", "inputs"), [("audiovisual", {"audio", "image"}), ("audio", {"audio"}), ("video", {"image"})]
)
def test_finetuning_feeds_what_the_modality_needs(modality, inputs, random_runs, batch):
    classifier = KDCMAEClassifier.from_preset("tiny", num_classes=3, modality=modality, **random_runs.SIZES)
    model = Fixed(torch.tensor([[2.0, 0.0, 0.0]]).expand(CLIPS, -1))
    given = {name: tensor for name, tensor in batch.items() if name in inputs | {"target"}}
    score = FinetuningTask(classifier, 0.0).score(model, given, 0)
    assert model.inputs == inputs
    assert score.metrics["accuracy"].item() == pytest.approx(3 / 5)  # the mixed clip counts for both of its classes


def test_finetuning_losses(random_runs, batch):
    logits = torch.randn(CLIPS, 3, generator=torch.Generator().manual_seed(1))
    target = batch["target"]
    smooth = target * 0.9 + 0.1 / 3
    expected = {
        False: -(smooth * logits.log_softmax(1)).sum(1).mean(),
        True: -(smooth * logits.sigmoid().log() + (1 - smooth) * (1 - logits.sigmoid()).log()).mean(),
    }
    for multi_label, value in expected.items():
        classifier = KDCMAEClassifier.from_preset("tiny", num_classes=3, multi_label=multi_label, **random_runs.SIZES)
        score = FinetuningTask(classifier, 0.1).score(Fixed(logits), batch, 0)
        torch.testing.assert_close(score.loss, value)


def test_pictures_show_clips_in_rows(model, batch):
    one, all_clips = (
        PretrainingTask(model, seed=0).pictures({name: tensor[:clips] for name, tensor in batch.items()})
        for clips in (1, CLIPS)
    )
    for name, picture in one.items():
        height, width, colours = picture.shape
        assert colours == 3
        assert all_clips[name].shape == (CLIPS * height, width, 3)
        assert (all_clips[name][:height] == picture).all()


def test_pictures_of_clips_of_different_lengths(model, batch):
    """The rest of a shorter one's width is white."""
    padded = batch["audio"].clone()
    statistics = model.config.preprocessing
    padded[1, 20:] = -statistics.fbank_mean / statistics.fbank_std  # what padding becomes
    pictures = PretrainingTask(model, seed=0).pictures({**batch, "audio": padded})
    assert pictures["audio"].shape[2] == 3
    assert (pictures["audio"] == 255).all(axis=2).any()
