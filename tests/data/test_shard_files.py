from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from made_media import write_wav

from kdcmae.data.check import check_clips
from kdcmae.data.manifest import ClipRecord, write_manifest
from kdcmae.data.reading import read_record
from kdcmae.data.shard_files import count_clips, index_shards, list_clips, named_clips, read_shard, read_whole_clips
from kdcmae.data.stats import spectrogram_stats
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import DataError

MembersOf = Callable[[ClipRecord], list[tuple[str, bytes]]]
WriteShard = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


def test_shards_hold_clips(shards: list[Path], records: list[ClipRecord]) -> None:
    assert count_clips(shards) == 12
    clips = list(read_shard(shards[1]))
    assert [(clip.id, clip.labels) for clip in clips] == [(record.id, record.labels) for record in records[1::4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "a.json: is not JSON"), (b"[]", r"a.json: is \[\] instead"), (b'{"labels": 3}', "labels=3")],
)
def test_labels_that_cannot_be_read(content: bytes, message: str, tmp_path: Path, write_shard: WriteShard) -> None:
    shard = write_shard(tmp_path / "labels.tar", [("a.json", content), ("a.wav", b"x")])
    for clip in (*read_shard(shard), *index_shards([shard])):
        with pytest.raises(DataError, match=message):
            read_record(clip, "audio", ())


def test_members_may_be_compressed(
    records: list[ClipRecord], tmp_path: Path, members_of: MembersOf, write_shard: WriteShard
) -> None:
    plain = write_shard(tmp_path / "a.tar", members_of(records[0]))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert next(read_shard(tmp_path / "a.tar.gz")).members == next(read_shard(plain)).members
    assert len(next(read_shard(plain)).members) == 12


def test_shards_that_cannot_be_read(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no tar")
    (tmp_path / "cut.tar").write_bytes(shards[0].read_bytes()[:30000])
    for name in ("text.tar", "cut.tar", "none.tar"):
        for read in (read_shard, lambda path: index_shards([path])):
            with pytest.raises(DataError, match=rf"{name}: is no tar file, or truncated"):
                list(read(tmp_path / name))


def damage(shard: Path, kind: str, folder: Path) -> Path:
    """A copy of a shard that is damaged behind its first clip."""
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as archive:
        members = archive.getmembers()
    middle = next(member for member in members if member.name.startswith("clips/clip8."))
    if kind == "overwritten header":
        content[middle.offset : middle.offset + 512] = bytes(range(256)) * 2
    elif kind == "zeroed header":
        content[middle.offset : middle.offset + 512] = bytes(512)
    elif kind == "cut in a member":
        del content[members[-1].offset_data + 5 :]
    elif kind == "cut in a header":
        del content[middle.offset + 100 :]
    elif kind == "cut between members":
        del content[middle.offset :]
    path = folder / "damaged.tar"
    path.write_bytes(content)
    return path


DAMAGES = ("overwritten header", "zeroed header", "cut in a member", "cut in a header", "cut between members")


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_clips_before_the_damage_are_kept(kind: str, shards: list[Path], tmp_path: Path) -> None:
    path = damage(shards[0], kind, tmp_path)  # clips 0, 4 and 8
    with pytest.raises(DataError, match=r"damaged\.tar: is no tar file, or truncated or damaged: "):
        list(read_shard(path))
    for clips in (list(read_whole_clips(path)), index_shards([path, shards[1]])):
        assert clips[0].id == "clip0"
        (flawed,) = (clip for clip in clips if clip.flaw)
        assert flawed.id == "damaged.tar"
        with pytest.raises(DataError, match="or truncated or damaged"):
            read_record(flawed, "audiovisual", (5,))
    (problem,) = check_clips(index_shards([path]), None, shortest_s=0.1)
    assert (problem.clip_id, problem.kind) == ("damaged.tar", "corrupt")
    assert count_clips([path]) == len(list(read_whole_clips(path))) - 1


@pytest.mark.parametrize("kind", ["overwritten header", "cut in a member"])
def test_damage_in_a_compressed_shard(kind: str, shards: list[Path], tmp_path: Path) -> None:
    plain = damage(shards[0], kind, tmp_path)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DataError, match="truncated or damaged"):
        list(read_shard(path))
    path.write_bytes(gzip.compress(shards[0].read_bytes())[:-2000])
    with pytest.raises(DataError, match="truncated or damaged"):
        list(read_shard(path))


def test_a_shard_that_shrinks_while_it_is_used(shards: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(shards[0].read_bytes())
    clip = index_shards([path])[-1]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="is truncated: 0 of"):
        read_record(clip, "audiovisual", (5,))


def test_clips_of_an_index_are_read_like_their_files(shards: list[Path], records: list[ClipRecord]) -> None:
    by_id = {record.id: record for record in records}
    clips = list_clips(shards[0].parent)
    assert sorted(clip.id for clip in clips) == sorted(by_id)
    for clip in clips:
        ours, theirs = (read_record(one, "audiovisual", (0, 7)) for one in (clip, by_id[clip.id]))
        assert ours.waveform is not None
        np.testing.assert_array_equal(ours.waveform, theirs.waveform)
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        assert clip.labels == by_id[clip.id].labels


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_are_checked_and_measured(processes: int, shards: list[Path], records: list[ClipRecord]) -> None:
    clips = index_shards(shards)
    measured = spectrogram_stats(clips, audio_frames=32, processes=processes)
    expected = spectrogram_stats(records, audio_frames=32)
    assert (measured.clips, measured.mean, measured.std) == pytest.approx((12, expected.mean, expected.std))
    assert check_clips(clips, None, shortest_s=0.1, processes=processes) == []
    assert {problem.kind for problem in check_clips(clips[:2], None, processes=processes)} == {"short"}


def test_a_clip_of_sound_alone_is_checked_as_such(
    tmp_path: Path, records: list[ClipRecord], members_of: MembersOf, write_shard: WriteShard
) -> None:
    members = [(name, content) for name, content in members_of(records[0]) if not name.endswith("jpg")]
    broken = [("b.wav", b"no sound"), ("b.0.jpg", b"no picture")]
    problems = check_clips(index_shards([write_shard(tmp_path / "a.tar", [*members, *broken])]), None, shortest_s=0.1)
    assert [(problem.clip_id, problem.kind) for problem in problems] == [("b", "corrupt")]


@pytest.mark.parametrize("extension", ["ts", "3gp", "mts", "flv", "recording"])
def test_a_video_by_another_name(extension: str, tmp_path: Path, write_shard: WriteShard) -> None:
    demo_clip(tmp_path / "v.mp4", seconds=1)
    members = [("v.caption.txt", b"x"), ("v.txt", b"x"), (f"v.{extension}", (tmp_path / "v.mp4").read_bytes())]
    (clip,) = index_shards([write_shard(tmp_path / "a.tar", members)])
    assert clip.modality == "audiovisual"
    raw = read_record(clip, "audiovisual", (5,))
    assert raw.waveform is not None
    assert raw.frames[0].shape == (240, 320, 3)


def test_an_id_is_used_once(
    tmp_path: Path, records: list[ClipRecord], members_of: MembersOf, write_shard: WriteShard
) -> None:
    shards = [write_shard(tmp_path / f"{number}.tar", members_of(records[0])) for number in range(2)]
    with pytest.raises(DataError, match=r"1\.tar: id 'clip0' was used before"):
        index_shards(shards)


def test_a_folder_of_any_files_is_checked_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    demo_clip(tmp_path / "deep" / "a.mp4", seconds=1)
    (tmp_path / "b.mkv").write_text("no video")
    write_wav(tmp_path / "c.WAV", np.random.default_rng(0).uniform(-0.5, 0.5, 32000))
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "deep_a.mp4").write_text("another file, whose id is its own")
    clips = list_clips(tmp_path)
    assert [clip.id for clip in clips] == ["b.mkv", "c.WAV", "deep/a.mp4", "deep_a.mp4"]
    problems = [(problem.clip_id, problem.kind) for problem in check_clips(clips, None)]
    assert problems == [("b.mkv", "corrupt"), ("deep_a.mp4", "corrupt")]


def test_a_path_names_one_file_or_the_clips_of_a_list(
    tmp_path: Path, write_shard: WriteShard, members_of: MembersOf, records: list[ClipRecord]
) -> None:
    shard = write_shard(tmp_path / "some.tar", [*members_of(records[0]), *members_of(records[1])])
    write_manifest(tmp_path / "some.json", records[:3])
    write_wav(tmp_path / "a.wav", np.zeros(16000))
    assert [clip.id for clip in named_clips(shard)] == [record.id for record in records[:2]]
    assert [clip.id for clip in named_clips(tmp_path)] == [record.id for record in records[:2]]
    assert [clip.id for clip in named_clips(tmp_path / "some.json")] == [record.id for record in records[:3]]
    assert named_clips(tmp_path / "a.wav") == [ClipRecord(id="a.wav", wav=tmp_path / "a.wav")]
    assert named_clips(tmp_path / "b.mp4") == [ClipRecord(id="b.mp4", video=tmp_path / "b.mp4")]


def test_folders_without_clips(tmp_path: Path, write_shard: WriteShard) -> None:
    with pytest.raises(DataError, match=r"holds no \.tar files"):
        list_clips(tmp_path)
    write_shard(tmp_path / "a.tar", [])
    with pytest.raises(DataError, match=r"no clips in .*a\.tar"):
        list_clips(tmp_path)
