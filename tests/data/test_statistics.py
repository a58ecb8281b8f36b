from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kdcmae.data.statistics import read_statistics, write_statistics
from kdcmae.errors import ConfigError, DataError, DiskFullError

FullDisk = Callable[[], AbstractContextManager[None]]
VALUES = {"fbank_mean": -4.25, "fbank_std": 3.5}


def test_statistics_lie_beside_a_manifest_or_in_a_folder_of_shards(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").touch()
    for data, path in (("train.jsonl", "train.jsonl.stats.json"), ("shards", "shards/stats.json")):
        assert read_statistics(tmp_path / data) is None
        assert write_statistics(tmp_path / data, VALUES, audio_frames=64, clips=3) == tmp_path / path
        kept = read_statistics(tmp_path / data)
        assert kept is not None
        assert (kept.path, kept.values, kept.audio_frames) == (tmp_path / path, VALUES, 64)


def test_a_published_manifest_holds_them_itself(tmp_path: Path) -> None:
    manifest = tmp_path / "train.json"
    manifest.write_text(json.dumps({"data": [], "image_mean": [0.5, 0.25, 0.125], **VALUES}))
    kept = read_statistics(manifest)
    assert kept is not None
    assert kept.values == {**VALUES, "image_mean": (0.5, 0.25, 0.125)}
    with pytest.raises(DataError, match=r"train\.json holds statistics itself"):
        write_statistics(manifest, VALUES)
    (tmp_path / "train.json.stats.json").write_text(json.dumps(VALUES))
    with pytest.raises(DataError, match="hold statistics; remove them from one"):
        read_statistics(manifest)
    manifest.write_text(json.dumps({"data": [{"video_id": "fbank_mean"}]}))
    kept = read_statistics(manifest)
    assert kept is not None
    assert kept.path.name == "train.json.stats.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds none of fbank_mean, .*kdcmae data stats --write"),
        ([], "holds none of fbank_mean"),
        ({"fbank_std": 0}, "fbank_std=0 is not supported; it must be a positive number"),
        ({"fbank_mean": "-5"}, "fbank_mean='-5'"),
        ({"fbank_mean": -5.0, "audio_frames": 0}, "audio_frames=0"),
    ],
)
def test_statistics_that_cannot_be_used(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv.stats.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_statistics(tmp_path / "a.csv")


def test_padding_counts(tmp_path: Path) -> None:
    write_statistics(tmp_path / "a.csv", VALUES, audio_frames=1024)
    kept = read_statistics(tmp_path / "a.csv")
    assert kept is not None
    kept.require_frames(1024)
    with pytest.raises(ConfigError, match=r"over 1024 frames and the model takes 208; .*--audio-frames 208 --write"):
        kept.require_frames(208)


def test_a_full_disk_leaves_the_old_ones(tmp_path: Path, full_disk: FullDisk) -> None:
    path = write_statistics(tmp_path / "a.csv", VALUES)
    before = path.read_text()
    with pytest.raises(DiskFullError, match=r"a\.csv\.stats\.json: no space left"), full_disk():
        write_statistics(tmp_path / "a.csv", {"fbank_mean": 0.0})
    assert path.read_text() == before


def test_a_folder_of_clips_keeps_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no shards"):
        write_statistics(tmp_path, VALUES)
