from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.reading import RawClip
from kdcmae.errors import ConfigError
from kdcmae.training.recipes import RECIPES
from kdcmae.training.settings import TrainingSettings
from kdcmae.training.sources import training_batches, validation_batches

CLIPS = 18


def fast_read(record, modality, frame_numbers) -> RawClip:
    """Two seconds of silence, in place of making the clip."""
    frame = np.zeros((112, 112, 3), dtype=np.uint8)
    return RawClip(np.zeros(32000, dtype=np.float32), [frame for _ in frame_numbers])


@pytest.fixture
def dataset() -> ClipDataset:
    """Sixteen clips of one class and one each of two others."""
    synth = AVSynth("train", clips=CLIPS)
    names = synth.labels.names
    records = [
        dataclasses.replace(record, labels=(names[max(0, number - 15)],)) for number, record in enumerate(synth.records)
    ]
    return ClipDataset(records, synth.labels, DatasetSettings(), fast_read)


def settings(stage: str, **changes) -> TrainingSettings:
    return dataclasses.replace(RECIPES[f"avsynth-{stage}"].training, batch_size=4, workers=0, **changes)


def all_drawn(source) -> list[int]:
    return [index for batch in drawn(source) for index in batch]


def drawn(source, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch["index"].tolist() for batch in source.batches(epoch, start)]


def test_an_epoch_of_training_is_a_shuffle_without_its_last_incomplete_batch(dataset):
    source = training_batches(dataset, settings("pretrain"))
    assert source.batches_per_epoch == 4
    first, second = drawn(source), drawn(source, epoch=1)
    assert first != second
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [4, 4, 4, 4]
        assert len({index for batch in epoch for index in batch}) == 16
    assert drawn(source, start=3) == first[3:]
    assert drawn(training_batches(dataset, settings("pretrain", seed=1))) != first


def test_balanced_sampling_draws_rare_classes_as_often(dataset):
    balanced = training_batches(dataset, settings("finetune", balanced=True))
    counts = Counter(index for epoch in range(12) for batch in drawn(balanced, epoch) for index in batch)
    rare = counts[16] + counts[17]
    assert rare / sum(counts.values()) == pytest.approx(2 / 3, abs=0.08)  # three classes, two of them rare


def test_finetuning_validates_every_clip_once_and_pretraining_whole_batches(dataset):
    assert all_drawn(validation_batches(dataset, settings("finetune"))) == list(range(CLIPS))
    assert all_drawn(validation_batches(dataset, settings("pretrain"))) == list(range(16))
    assert all_drawn(validation_batches(dataset, settings("finetune", parallel="fsdp"))) == list(range(16))


def test_accumulated_batches_are_parts_of_the_batch(dataset):
    whole = drawn(training_batches(dataset, settings("pretrain")))
    parts = drawn(training_batches(dataset, settings("pretrain", accumulation_steps=2)))
    assert [parts[2 * number] + parts[2 * number + 1] for number in range(4)] == whole


def test_ranks_that_cannot_share_a_batch(dataset, monkeypatch):
    monkeypatch.setattr("kdcmae.training.sources.world_size", lambda: 3)
    with pytest.raises(ConfigError, match="batch_size=4 is not a multiple of 3"):
        training_batches(dataset, settings("pretrain"))
