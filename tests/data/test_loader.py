from __future__ import annotations

import pytest
import torch

from kdcmae.data.augment import Augmentation
from kdcmae.data.broken import BrokenClips
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.loader import ClipLoader, evaluation_loader, training_loader
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.sampling import BatchSampler, InOrder, Shuffled
from kdcmae.errors import ConfigError, DataError
from kdcmae.runtime.preprocessing import Preprocessing

SETTINGS = DatasetSettings(
    preprocessing=Preprocessing(audio_frames=32, image_size=16),
    frames="random",
    augmentation=Augmentation(frequency_mask=20, mixup_rate=0.5),
)

Batch = dict[str, torch.Tensor]

WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(scope="module")
def records(extracted) -> list[ClipRecord]:  # type: ignore[no-untyped-def]
    return extracted(11)


@pytest.fixture
def broken_records(extracted) -> list[ClipRecord]:  # type: ignore[no-untyped-def]
    """Eleven clips; 2 and 3 lack their sound."""
    made = extracted(11)
    for record in made[2:4]:
        record.wav.unlink()
    return made


def dataset(records: list[ClipRecord]) -> ClipDataset:
    return ClipDataset(records, LabelMap.of_records(records), SETTINGS)


def training(records: list[ClipRecord], *, size: int = 4, workers: int = 0, **spread: int) -> ClipLoader:
    sampler = BatchSampler(Shuffled(len(records), seed=0), batch_size=size, drop_last=True, **spread)  # type: ignore[arg-type]
    return training_loader(dataset(records), sampler, workers=workers, broken_limit=1.0)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_batches_are_tensors(records: list[ClipRecord]) -> None:
    loader = training(records)
    batches = list(loader)
    assert len(batches) == loader.batches_per_epoch == 2
    shapes = {name: tuple(value.shape) for name, value in batches[0].items()}
    assert shapes == {"audio": (4, 32, 128), "image": (4, 3, 16, 16), "target": (4, 3), "index": (4,)}
    assert loader.clip_id(int(batches[0]["index"][0])) in {record.id for record in records}


def test_epochs_differ_and_repeat(records: list[ClipRecord]) -> None:
    loader = training(records)
    first, second = (list(loader.batches(epoch)) for epoch in (0, 1))
    assert [batch["index"].tolist() for batch in first] != [batch["index"].tolist() for batch in second]
    assert_same(list(training(records).batches(1)), second)


@WORKERS
@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_an_epoch_resumes_at_any_batch(start: int, workers: int, records: list[ClipRecord]) -> None:
    whole = list(training(records, size=2).batches(3))
    assert len(whole) == 5
    loader = training(records, size=2, workers=workers)
    next(loader.batches(2))  # what was asked for before plays no part
    assert_same(list(loader.batches(3, start)), whole[start:])


def test_ranks_together_give_the_batch_of_one_process(records: list[ClipRecord]) -> None:
    one = list(training(records, size=4))
    ranks = [list(training(records, size=2, rank=rank, world_size=2)) for rank in (0, 1)]
    together = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(*ranks, strict=True)]
    assert_same(together, one)


def test_workers_change_nothing(broken_records: list[ClipRecord]) -> None:
    alone, helped = training(broken_records), training(broken_records, workers=2)
    for epoch in range(2):
        assert_same(list(helped.batches(epoch)), list(alone.batches(epoch)))
    assert helped.broken.reasons == alone.broken.reasons


def test_the_global_random_state_is_left_alone(records: list[ClipRecord]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(training(records))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_draws_another_clip_for_a_broken_one(broken_records: list[ClipRecord]) -> None:
    loader = training(broken_records)
    for epoch in range(4):
        for batch in loader.batches(epoch):
            assert batch["index"].shape == (4,)
            assert not {2, 3} & set(batch["index"].tolist())
            assert batch["audio"].std(dim=(1, 2)).min() > 0.1  # nothing constant in their place
    assert set(loader.broken.reasons) == {"clip2", "clip3"}
    assert "no such file" in loader.broken.reasons["clip2"]


def test_evaluation_leaves_broken_clips_out(broken_records: list[ClipRecord]) -> None:
    sampler = BatchSampler(InOrder(11), batch_size=2)
    settings = DatasetSettings(preprocessing=SETTINGS.preprocessing)
    loader = evaluation_loader(ClipDataset(broken_records, None, settings), sampler, broken_limit=0.2)
    assert [batch["index"].tolist() for batch in loader] == [[0, 1], [4, 5], [6, 7], [8, 9], [10]]
    assert len(loader.broken) == 2


def test_past_the_limit_the_run_stops_with_the_list(broken_records: list[ClipRecord]) -> None:
    sampler = BatchSampler(InOrder(11), batch_size=2)
    loader = evaluation_loader(dataset(broken_records), sampler, broken_limit=0.1)
    with pytest.raises(DataError, match=r"2 of 11 clips cannot be used, more than the limit of 10\.00%") as caught:
        list(loader)
    for name in ("clip2", "clip3"):
        assert f"{name}: " in str(caught.value)


def test_the_limit_counts_each_clip_once_and_lists_no_more_than_a_hundred() -> None:
    broken = BrokenClips(200, 0.6)
    for _ in range(3):
        broken.add([(f"clip{i:03}", "is damaged") for i in range(120)])
    assert len(broken) == 120
    with pytest.raises(DataError) as caught:
        broken.add([("another", "is damaged")])
    assert str(caught.value).count("is damaged") == 100
    with pytest.raises(ConfigError, match="from 0 to 1"):
        BrokenClips(10, 1.5)


def test_a_dataset_of_broken_clips_ends(extracted) -> None:  # type: ignore[no-untyped-def]
    records = extracted(4)
    for record in records:
        record.wav.unlink()
    with pytest.raises(DataError, match="4 of 4 clips cannot be used"):
        list(training_loader(dataset(records), BatchSampler(InOrder(4), batch_size=4)))
