from __future__ import annotations

import dataclasses
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.dataset import DatasetSettings
from kdcmae.data.reading import RawClip
from kdcmae.errors import ConfigError, DataError
from kdcmae.training.recipes import RECIPES
from kdcmae.training.settings import TrainingSettings
from kdcmae.training.sources import ClipList, Shards, open_source

CLIPS = 18


def fast_read(record, modality, frame_numbers) -> RawClip:
    """Two seconds of silence, in place of making the clip."""
    frame = np.zeros((112, 112, 3), dtype=np.uint8)
    return RawClip(np.zeros(32000, dtype=np.float32), [frame for _ in frame_numbers])


@pytest.fixture
def clips() -> ClipList:
    """Sixteen clips of one class and one each of two others."""
    synth = AVSynth("train", clips=CLIPS)
    names = synth.labels.names
    records = [
        dataclasses.replace(record, labels=(names[max(0, number - 15)],)) for number, record in enumerate(synth.records)
    ]
    return ClipList(records, synth.labels, fast_read)


def settings(stage: str, **changes) -> TrainingSettings:
    return dataclasses.replace(RECIPES[f"avsynth-{stage}"].training, batch_size=4, workers=0, **changes)


def training(clips, settings: TrainingSettings):
    return clips.training(clips.classes(None), DatasetSettings(seed=settings.seed), settings)


def validation(clips, settings: TrainingSettings):
    return clips.validation(clips.classes(None), DatasetSettings(), settings)


def all_drawn(source) -> list[int]:
    return [index for batch in drawn(source) for index in batch]


def drawn(source, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch["index"].tolist() for batch in source.batches(epoch, start)]


def test_an_epoch_of_training_is_a_shuffle_without_its_last_incomplete_batch(clips):
    source = training(clips, settings("pretrain"))
    assert source.batches_per_epoch == 4
    first, second = drawn(source), drawn(source, epoch=1)
    assert first != second
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [4, 4, 4, 4]
        assert len({index for batch in epoch for index in batch}) == 16
    assert drawn(source, start=3) == first[3:]
    assert drawn(training(clips, settings("pretrain", seed=1))) != first


@contextmanager
def ranks_of(count: int) -> Iterator[None]:
    """This process as the first rank of so many, whose collectives do nothing."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_balanced_sampling_draws_rare_classes_as_often(clips):
    balanced = training(clips, settings("finetune", balanced=True))
    counts = Counter(index for epoch in range(12) for batch in drawn(balanced, epoch) for index in batch)
    rare = counts[16] + counts[17]
    assert rare / sum(counts.values()) == pytest.approx(2 / 3, abs=0.08)  # three classes, two of them rare


def test_finetuning_validates_every_clip_once_and_pretraining_whole_batches(clips):
    assert all_drawn(validation(clips, settings("finetune"))) == list(range(CLIPS))
    assert [len(batch) for batch in drawn(validation(clips, settings("pretrain")))] == [3] * 6
    assert all_drawn(validation(clips, settings("finetune", parallel="fsdp"))) == list(range(CLIPS))
    few = dataclasses.replace(clips, records=clips.records[:3])
    assert drawn(validation(few, settings("pretrain"))) == [[0, 1, 2]]  # no whole batch of four


@pytest.mark.parametrize(
    ("count", "batch", "ranks", "left_out"),
    [(30, 16, 1, 0), (31, 16, 1, 1), (23, 16, 1, 1), (23, 16, 2, 3), (33, 16, 1, 0), (60, 32, 2, 0), (17, 8, 1, 1)],
)
def test_pretraining_leaves_few_clips_out_of_its_validation(count, batch, ranks, left_out, clips):
    many = dataclasses.replace(clips, records=[clips.records[0]] * count)
    with ranks_of(ranks):
        source = validation(many, dataclasses.replace(settings("pretrain"), batch_size=batch))
        size = len(drawn(source)[0]) * ranks
        assert batch // 2 < size <= batch
        assert count - size * source.batches_per_epoch == left_out


def test_accumulated_batches_are_parts_of_the_batch(clips):
    whole = drawn(training(clips, settings("pretrain")))
    parts = drawn(training(clips, settings("pretrain", accumulation_steps=2)))
    assert [parts[2 * number] + parts[2 * number + 1] for number in range(4)] == whole


def test_ranks_that_cannot_share_a_batch(clips):
    with ranks_of(3), pytest.raises(ConfigError, match="batch_size=4 is not a multiple of 3"):
        training(clips, settings("pretrain"))


def test_names_of_sources(tmp_path):
    synth = open_source("avsynth:5", split="valid")
    assert [record.id for record in synth.records] == [record.id for record in AVSynth("valid", clips=5).records]
    assert len(synth.classes(None)) == 12
    manifest = tmp_path / "two.jsonl"
    manifest.write_text('{"path": "a.mp4", "labels": ["dog"]}\n{"path": "b.mp4", "labels": ["cat", "dog"]}\n')
    listed = open_source(str(manifest), split="train")
    assert listed.classes(None).names == ("cat", "dog")
    assert listed.classes(synth.classes(None)).names == synth.labels.names
    with pytest.raises(ConfigError, match="avsynth:2000"):
        open_source("avsynth:0", split="train")
    with pytest.raises(DataError, match=r"holds no \.tar files"):
        open_source(str(tmp_path), split="train")


def test_a_resumed_run_must_have_the_same_clips(clips):
    pretraining = settings("pretrain")
    fewer = dataclasses.replace(clips, records=clips.records[:-1])
    relabelled = dataclasses.replace(clips, records=[dataclasses.replace(r, labels=()) for r in clips.records])
    assert len({other.identity(pretraining)["data.clips"] for other in (clips, fewer, relabelled)}) == 3
    assert clips.identity(pretraining) == clips.identity(dataclasses.replace(pretraining, workers=5))


@pytest.fixture
def shards(tmp_path) -> Shards:
    """Two shards of four clips, without anything to decode."""
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for clip in range(4):
                shard.addfile(tarfile.TarInfo(f"{number}-{clip}.mp4"))
    source = open_source(str(tmp_path), split="train")
    assert isinstance(source, Shards)
    return source


def test_shards_are_counted_or_the_count_is_given(shards):
    assert shards.clips == 8
    assert open_source(f"{shards.paths[0].parent}:100", split="train").clips == 100
    labels = AVSynth("train", clips=1).labels
    source = shards.training(labels, DatasetSettings(), settings("pretrain"))
    assert source.batches_per_epoch == 2
    assert shards.training(None, DatasetSettings(), settings("pretrain", accumulation_steps=2)).batches_per_epoch == 4


def test_shards_are_measured_in_order(shards):
    source = shards.validation(None, DatasetSettings(), settings("finetune"))
    assert [source.clip_id(number) for number in range(8)] == [f"{shard}-{clip}" for shard in "01" for clip in range(4)]


def test_a_single_shard_is_a_list_of_its_clips(shards):
    listed = open_source(str(shards.paths[1]), split="train")
    assert isinstance(listed, ClipList)
    assert [record.id for record in listed.records] == [f"1-{clip}" for clip in range(4)]
    # However many workers read it, a single file is enough for all of them, and they give the same batches.
    assert "data.readers" not in listed.identity(settings("pretrain"))
    assert listed.training(None, DatasetSettings(), settings("pretrain")).batches_per_epoch == 1
    with pytest.raises(DataError, match="no clip has a label"):
        listed.classes(None)


def test_what_shards_cannot_do(shards):
    finetuning = settings("finetune", balanced=True)
    with pytest.raises(ConfigError, match="use --labels FILE"):
        shards.classes(None)
    with pytest.raises(ConfigError, match="balanced=false"):
        shards.training(None, DatasetSettings(), finetuning)
    # Another number of readers gives other batches, so a resumed run must not change it.
    assert shards.identity(finetuning) != shards.identity(dataclasses.replace(finetuning, workers=5))
