from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.data.clip import read_clip
from kdcmae.data.extract import extract
from kdcmae.data.images import read_image, write_image
from kdcmae.data.manifest import ClipRecord, read_manifest
from kdcmae.data.reading import read_record
from kdcmae.data.shard_files import list_clips
from kdcmae.data.synthetic import write_clip
from kdcmae.errors import DataError, DiskFullError

FullDisk = Callable[[], AbstractContextManager[None]]
WriteShard = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRecord]:
    """Three short clips, the second of which is damaged."""
    folder = tmp_path_factory.mktemp("videos")
    records = []
    for number in range(3):
        path = folder / f"v{number}.mp4"
        rng = np.random.default_rng(number)
        pictures = [np.full((48, 64, 3), 10 * step + number, np.uint8) for step in range(20)]
        write_clip(path, rng.uniform(-0.4, 0.4, 16000).astype(np.float32), 16000, pictures, 20)
        records.append(ClipRecord(id=f"v{number}", labels=("a, b", f"class{number}"), video=path))
    path = folder / "v1.mp4"
    path.write_bytes(path.read_bytes()[:1000])
    return records


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_published_layout(videos: list[ClipRecord], tmp_path: Path) -> None:
    calls = []
    outcome = extract(videos, tmp_path, image_size=32, on_clip=lambda: calls.append(1))
    assert (outcome.extracted, outcome.kept, len(calls)) == (2, 0, 3)
    assert list(outcome.failed) == ["v1"]
    assert "truncated" in outcome.failed["v1"]
    expected = {f"frames/frame_{number}/v{clip}.jpg" for number in range(10) for clip in (0, 2)}
    assert files(tmp_path) == {"manifest.json", "sources.jsonl", "audio/v0.wav", "audio/v2.wav"} | expected
    entry = json.loads((tmp_path / "manifest.json").read_text())["data"][1]
    assert entry == {"video_id": "v2", "wav": "audio/v2.wav", "video_path": "frames", "labels": ["a, b", "class2"]}


def in_16_bits(waveform: np.ndarray) -> np.ndarray:
    return np.rint(waveform * 32768) / np.float32(32768)


def test_what_is_extracted_is_what_is_decoded(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract(videos[:1], tmp_path, image_size=32)
    record = read_manifest(tmp_path / "manifest.json")[0]
    assert videos[0].video is not None
    clip, extracted = read_clip(videos[0].video), read_record(record, "audiovisual", range(10))
    assert extracted.waveform is not None
    np.testing.assert_array_equal(extracted.waveform, in_16_bits(clip.waveform))
    for ours, theirs in zip(extracted.frames, clip.frames, strict=True):
        assert ours.shape == (32, 32, 3)
        assert abs(float(ours.mean()) - float(theirs.mean())) <= 1


def test_small_frames_are_cropped_but_not_enlarged(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract(videos[:1], tmp_path, image_size=224)
    assert read_image(tmp_path / "frames/frame_5/v0.jpg").shape == (48, 48, 3)


def test_a_second_run_goes_on_where_the_first_stood(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract(videos, tmp_path)
    untouched = (tmp_path / "audio/v0.wav").stat().st_mtime_ns
    (tmp_path / "frames/frame_4/v2.jpg").unlink()
    outcome = extract(videos, tmp_path)
    assert (outcome.extracted, outcome.kept, list(outcome.failed)) == (1, 1, ["v1"])
    assert (tmp_path / "audio/v0.wav").stat().st_mtime_ns == untouched
    assert (tmp_path / "frames/frame_4/v2.jpg").exists()
    assert [record.id for record in read_manifest(tmp_path / "manifest.json")] == ["v0", "v2"]


def test_a_clip_appears_whole_or_not_at_all(videos: list[ClipRecord], tmp_path: Path, full_disk: FullDisk) -> None:
    with pytest.raises(DiskFullError, match="no space left"), full_disk():
        extract(videos[:1], tmp_path)
    assert not any("wav" in name or "partial" in name for name in files(tmp_path))
    assert extract(videos[:1], tmp_path).extracted == 1


def test_other_settings_make_the_clips_again(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract(videos[:1], tmp_path, image_size=32)
    assert extract(videos[:1], tmp_path, image_size=24).extracted == 1
    assert read_image(tmp_path / "frames/frame_5/v0.jpg").shape == (24, 24, 3)
    outcome = extract(videos[:1], tmp_path, image_size=24)
    assert (outcome.extracted, outcome.kept) == (0, 1)


def test_only_the_time_that_a_model_hears_is_extracted(videos: list[ClipRecord], tmp_path: Path) -> None:
    assert videos[0].video is not None
    clip = read_clip(videos[0].video, seconds=0.5)
    for seconds, expected in ((10, None), (0.5, clip)):
        assert extract(videos[:1], tmp_path, image_size=32, seconds=seconds).extracted == 1
        extracted = read_record(read_manifest(tmp_path / "manifest.json")[0], "audiovisual", range(10))
        assert extracted.waveform is not None
        assert (len(extracted.waveform) == 8000) == (expected is not None)
        if expected is not None:
            means = [float(frame.mean()) for frame in extracted.frames]
            assert means == pytest.approx([float(frame.mean()) for frame in expected.frames], abs=1)
    assert extract(videos[:1], tmp_path, image_size=32, seconds=0.5, mono="left").extracted == 1


def test_a_source_that_changed_is_extracted_again(videos: list[ClipRecord], tmp_path: Path) -> None:
    assert videos[0].video is not None
    assert videos[2].video is not None
    clip = ClipRecord(id="a", video=tmp_path / "a.mp4")
    assert clip.video is not None
    for source in (videos[0].video, videos[2].video):
        clip.video.write_bytes(source.read_bytes())
        assert extract([clip], tmp_path / "out", image_size=32).extracted == 1
        record = read_manifest(tmp_path / "out/manifest.json")[0]
        waveform = read_record(record, "audio", ()).waveform
        np.testing.assert_array_equal(waveform, in_16_bits(read_clip(source).waveform))
    clip.video.write_bytes(b"damaged since")
    with pytest.raises(DataError, match="none of 1 clips"):
        extract([clip], tmp_path / "out", image_size=32)
    assert not (tmp_path / "out/manifest.json").exists()


def test_output_of_unknown_origin_is_made_again(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract(videos[:1], tmp_path)
    (tmp_path / "sources.jsonl").unlink()
    assert extract(videos[:1], tmp_path).extracted == 1


def test_a_run_killed_while_it_writes_goes_on(videos: list[ClipRecord], tmp_path: Path) -> None:
    extract([videos[0], videos[2]], tmp_path)
    sources = tmp_path / "sources.jsonl"
    sources.write_text(sources.read_text()[:-20])
    outcome = extract([videos[0], videos[2]], tmp_path)
    assert (outcome.extracted, outcome.kept) == (1, 1)
    assert extract([videos[0], videos[2]], tmp_path).kept == 2


@pytest.mark.parametrize("settings", [{"image_size": 24}, {"mono": "left"}, {"seconds": 0.5}], ids=str)
@pytest.mark.parametrize("stopped_at", ["kdcmae.data.extract.write_image", "kdcmae.data.provenance.Sources.add"])
def test_a_clip_that_was_being_remade_when_killed_is_not_done(
    stopped_at: str, settings: dict[str, Any], videos: list[ClipRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contents() -> dict[str, bytes]:
        return {name: (tmp_path / name).read_bytes() for name in files(tmp_path) - {"sources.jsonl"}}

    good = [videos[0], videos[2]]
    extract(good, tmp_path, image_size=32)
    expected, calls, real = contents(), [], write_image

    def stopped(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 4 or stopped_at.endswith("add"):
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(stopped_at, stopped)
    with pytest.raises(KeyboardInterrupt):
        extract(good, tmp_path, **{"image_size": 32, **settings})
    monkeypatch.undo()
    assert not (tmp_path / "manifest.json").exists()
    outcome = extract(good, tmp_path, image_size=32)
    assert (outcome.extracted, outcome.kept) == (1, 1)  # the other one was not begun
    assert contents() == expected


def test_a_clip_that_cannot_be_remade_is_not_done(videos: list[ClipRecord], tmp_path: Path) -> None:
    clip = ClipRecord(id="a", video=tmp_path / "a.mp4")
    assert clip.video is not None
    assert videos[0].video is not None
    clip.video.write_bytes(videos[0].video.read_bytes())
    when = clip.video.stat().st_mtime_ns
    extract([clip, videos[2]], tmp_path / "out", image_size=32, processes=2)
    content = clip.video.read_bytes()
    clip.video.write_bytes(b"damaged")
    assert list(extract([clip, videos[2]], tmp_path / "out", image_size=32, processes=2).failed) == ["a"]
    clip.video.write_bytes(content)
    os.utime(clip.video, ns=(when, when))
    assert extract([clip, videos[2]], tmp_path / "out", image_size=32).extracted == 1


def test_processes_change_nothing(videos: list[ClipRecord], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert extract(videos, one) == extract(videos, two, processes=2)
    assert files(one) == files(two)
    for name in files(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_what_cannot_be_extracted(videos: list[ClipRecord], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 1 clips can be decoded, such as .*v1\.mp4: is truncated"):
        extract(videos[1:2], tmp_path)
    with pytest.raises(DataError, match="'x' has no video: give a manifest of videos"):
        extract([ClipRecord(id="x", wav=tmp_path / "x.wav")], tmp_path)


def test_videos_in_a_shard_are_extracted_like_their_files(
    videos: list[ClipRecord], write_shard: WriteShard, tmp_path: Path
) -> None:
    members = []
    for record in videos:
        assert record.video is not None
        members += [(f"{record.id}.mp4", record.video.read_bytes())]
        members += [(f"{record.id}.json", json.dumps({"labels": list(record.labels)}).encode())]
    shard = write_shard(tmp_path / "some.tar", [*members, ("sound.wav", b"RIFF")])
    outcome = extract(list_clips(shard), tmp_path / "shard", image_size=32)
    assert list(outcome.failed) == ["v1", "sound"]
    assert "has no video" in outcome.failed["sound"]
    extract(videos[::2], tmp_path / "files", image_size=32)
    for path in sorted((tmp_path / "files").rglob("*.*")):
        if path.name != "sources.jsonl":
            assert (tmp_path / "shard" / path.relative_to(tmp_path / "files")).read_bytes() == path.read_bytes()
    again = extract(list_clips(shard), tmp_path / "shard", image_size=32)
    assert (again.extracted, again.kept) == (0, 2)


def test_clips_in_folders_of_a_folder_need_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.mp4").touch()
    with pytest.raises(DataError, match=r"'deep/a\.mp4' lies in a folder within the folder"):
        extract(list_clips(tmp_path), tmp_path / "out")
