from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from kdcmae.data.augment import Augmentation
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.shards import ShardLoader, ShardSettings
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import ConfigError, DataError
from kdcmae.runtime.preprocessing import Preprocessing

MembersOf = Callable[[ClipRecord], list[tuple[str, bytes]]]
WriteShard = Callable[[Path, Iterable[tuple[str, bytes]]], Path]

WORKERS = pytest.mark.parametrize("workers", [0, 2])

LABELS = LabelMap(("barking", "singing", "typing"), ("/m/1", "/m/2", "/m/3"))
PLAIN = DatasetSettings(preprocessing=Preprocessing(audio_frames=32, image_size=16))
TRAINING = DatasetSettings(
    preprocessing=PLAIN.preprocessing, frames="random", augmentation=Augmentation(mixup_rate=0.5), seed=3
)


def loader(shards: list[Path], dataset: DatasetSettings = TRAINING, **settings: float) -> ShardLoader:
    given = {"batch_size": 2, "clips": 12, "shuffled": 3, **settings}
    return ShardLoader(shards, LABELS, dataset, ShardSettings(**given))  # type: ignore[arg-type]


def assert_same(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_samples_are_those_of_the_files(shards: list[Path], records: list[ClipRecord]) -> None:
    stream = loader(shards, PLAIN, batch_size=1, shuffled=1)
    files = ClipDataset(records, LABELS, PLAIN)
    number_of = {record.id: number for number, record in enumerate(records)}
    seen = set()
    for batch in stream.batches(0):
        name = stream.clip_id(int(batch["index"][0]))
        seen.add(name)
        expected = files[number_of[name]]
        for key in ("audio", "image", "target"):
            assert torch.equal(batch[key][0], expected[key])
    assert seen == number_of.keys()


@WORKERS
def test_an_epoch_repeats_and_resumes_at_any_batch(shards: list[Path], workers: int) -> None:
    whole = list(loader(shards, workers=workers).batches(1))
    assert len(whole) == loader(shards).batches_per_epoch == 6
    assert all(batch["audio"].shape == (2, 32, 128) for batch in whole)
    for start in (0, 1, 2, 5):
        assert_same(list(loader(shards, workers=workers).batches(1, start)), whole[start:])
    other = list(loader(shards, workers=workers).batches(2))
    assert [batch["index"].tolist() for batch in other] != [batch["index"].tolist() for batch in whole]


@WORKERS
def test_readers_share_the_shards(shards: list[Path], workers: int) -> None:
    ids = []
    for rank in (0, 1):
        stream = loader(shards, workers=workers, rank=rank, world_size=2, batch_size=1, shuffled=1)
        assert stream.batches_per_epoch == 6
        ids.append({stream.clip_id(int(batch["index"][0])) for batch in stream.batches(0)})
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 12


@WORKERS
def test_an_epoch_shows_every_clip_once(shards: list[Path], workers: int) -> None:
    indices = torch.cat([batch["index"] for batch in loader(shards, PLAIN, workers=workers).batches(0)])
    assert len(set(indices.tolist())) == 12


def test_a_reader_with_few_clips_starts_again(shards: list[Path]) -> None:
    batches = list(loader(shards[:1], clips=10, shuffled=2).batches(0))
    assert [len(batch["index"]) for batch in batches] == [2] * 5


def test_videos_and_single_pictures(
    tmp_path: Path, records: list[ClipRecord], members_of: MembersOf, write_shard: WriteShard
) -> None:
    demo_clip(tmp_path / "v.mp4", seconds=1)
    facts = b'{"labels": "/m/1; typing"}'
    video = [("v.json", facts), ("v.mp4", (tmp_path / "v.mp4").read_bytes())]
    single = [
        ("s.json", facts),
        ("s.wav", dict(members_of(records[0]))["clip0.wav"]),
        ("s.jpg", records[0].frames[7].read_bytes()),
    ]
    shard = write_shard(tmp_path / "a.tar", [*video, *single])
    batches = list(loader([shard], PLAIN, clips=4, batch_size=1, shuffled=1).batches(0))
    assert {tuple(batch["target"][0].tolist()) for batch in batches} == {(1.0, 0.0, 1.0)}
    assert all(batch["image"].std() > 0 for batch in batches)


def test_a_broken_clip_is_replaced_by_another_and_counted(
    tmp_path: Path, records: list[ClipRecord], members_of: MembersOf, write_shard: WriteShard
) -> None:
    members = [pair for record in records[:6] for pair in members_of(record)]
    broken = [(name, b"no sound" if name == "clip2.wav" else content) for name, content in members]
    shard = write_shard(tmp_path / "a.tar", broken)
    stream = loader([shard], clips=18, broken_limit=0.1)
    for batch in stream.batches(0):
        names = [stream.clip_id(index) for index in batch["index"].tolist()]
        assert len(names) == 2
        assert "clip2" not in names
    assert stream.broken.reasons == {"clip2": "clip2.wav: is not a media file, or its header is damaged"}
    with pytest.raises(DataError, match="1 of 18 clips cannot be used"):
        list(loader([shard], clips=18, broken_limit=0.01).batches(0))


@WORKERS
def test_a_damaged_shard_counts_as_a_broken_clip(shards: list[Path], tmp_path: Path, workers: int) -> None:
    paths = []
    for shard in shards:
        paths.append(tmp_path / shard.name)
        paths[-1].write_bytes(shard.read_bytes())
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[: len(content) // 2])
    stream = loader(paths, workers=workers, broken_limit=0.2)
    assert sum(len(batch["index"]) for batch in stream.batches(0)) == 12
    assert list(stream.broken.reasons) == ["2.tar"]
    assert "truncated or damaged" in stream.broken.reasons["2.tar"]


def test_a_clip_whose_json_is_damaged_is_broken(
    tmp_path: Path, records: list[ClipRecord], members_of: MembersOf, write_shard: WriteShard
) -> None:
    members = [pair for record in records[:6] for pair in members_of(record)]
    broken = [(name, b"{" if name == "clip2.json" else content) for name, content in members]
    stream = loader([write_shard(tmp_path / "a.tar", broken)], clips=18, broken_limit=0.1)
    assert sum(len(batch["index"]) for batch in stream.batches(0)) == 18
    assert "is not JSON" in stream.broken.reasons["clip2"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.0.5.mp4", b"x")], r"has neither video nor sound, only json, 0\.5\.mp4; no name may have an early dot"),
        ([("a.wav", b""), ("a.3.jpg", b"x")], "has no member 5.jpg"),
    ],
)
def test_clips_that_lack_something(
    members: list[tuple[str, bytes]], reason: str, tmp_path: Path, write_shard: WriteShard
) -> None:
    shard = write_shard(tmp_path / "a.tar", [("a.json", b'{"labels": ["typing"]}'), *members])
    with pytest.raises(DataError, match=reason):
        list(loader([shard], PLAIN, clips=2, shuffled=1).batches(0))


def test_shards_without_clips(tmp_path: Path, write_shard: WriteShard) -> None:
    empty = write_shard(tmp_path / "empty.tar", [])
    with pytest.raises(DataError, match=r"no clips in .*empty\.tar"):
        list(loader([empty]).batches(0))


def test_settings_that_do_not_fit(shards: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"4 shards for 6 readers \(2 ranks, 3 workers\)"):
        loader(shards, workers=3, world_size=2)
    with pytest.raises(ConfigError, match="3 clips do not fill one batch"):
        loader(shards, clips=3, batch_size=4)
