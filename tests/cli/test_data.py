from __future__ import annotations

import csv
import json
import tarfile
import wave
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kdcmae.cli import main
from kdcmae.data.manifest import read_manifest

FullDisk = Callable[[], AbstractContextManager[None]]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["data", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def avsynth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "avsynth"
    result = run("synth", folder, "--clips", 13, "--seed", 2, "--processes", 1, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert {split: entry["clips"] for split, entry in document["splits"].items()} == {"train": 9, "valid": 2, "test": 2}
    assert (document["seed"], document["labels"]) == (2, str(folder / "labels.csv"))
    assert [document["splits"][split]["manifest"] for split in ("train", "test")] == [
        str(folder / "train.jsonl"),
        str(folder / "test.jsonl"),
    ]
    return folder


@pytest.fixture(scope="module")
def extracted(avsynth: Path) -> Path:
    folder = avsynth.parent / "extracted"
    result = run("extract", avsynth / "valid.jsonl", folder, "--image-size", 64, "--processes", 1)
    assert result.exit_code == 0
    assert "2 clips extracted, 0 done before, 0 failed" in result.stdout
    assert "extract" in result.stderr
    return folder


def test_synth_says_what_it_made(tmp_path: Path) -> None:
    result = run("synth", tmp_path, "--clips", 12, "--processes", 1)
    assert result.exit_code == 0
    assert f"8 clips  {tmp_path / 'train.jsonl'}" in result.stdout
    assert len(read_manifest(tmp_path / "valid.jsonl")) == 2


def test_extract_resumes_and_reports_failures(avsynth: Path, extracted: Path) -> None:
    (avsynth.parent / "text.mp4").write_text("no video")
    with (avsynth.parent / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "labels"))
        rows.writerows((record.video, record.labels[0]) for record in read_manifest(avsynth / "valid.jsonl"))
        rows.writerow(("text.mp4", "rising disc"))
    command = ("extract", avsynth.parent / "videos.csv", extracted, "--image-size", 64, "--processes", 1, "--json")
    result = run(*command, "--broken-limit", 0.4)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["extracted"], document["kept"], list(document["failed"])) == (0, 2, ["text"])
    assert "is not a media file" in document["failed"]["text"]
    assert json.loads((extracted / "report.json").read_text()) == document
    assert "note: 1 of 3 clips failed" in result.stderr
    stopped = run(*command)
    assert stopped.exit_code == 1
    assert "error: 1 of 3 clips failed, more than the limit of 1.00%" in stopped.stderr
    assert "--broken-limit" in stopped.stderr
    assert json.loads(stopped.stdout) == document
    assert len(read_manifest(document["manifest"])) == 2


def test_a_full_disk_leaves_what_an_extraction_wrote_before(
    avsynth: Path, extracted: Path, full_disk: FullDisk
) -> None:
    written = [extracted / name for name in ("report.json", "manifest.json")]
    before = [path.read_bytes() for path in written]
    with full_disk():
        result = run("extract", avsynth / "valid.jsonl", extracted, "--image-size", 64, "--processes", 1)
    assert result.exit_code == 2
    assert "no space left on the device" in result.stderr
    assert [path.read_bytes() for path in written] == before


def test_stats(avsynth: Path, extracted: Path) -> None:
    result = run("stats", extracted / "manifest.json", "--audio-frames", 192, "--processes", 1, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["clips"], document["audio_frames"], document["broken"]) == (2, 192, {})
    shown = run("stats", avsynth / "valid.jsonl", "--audio-frames", 192, "--processes", 1)
    assert f"fbank_mean {document['mean']:.4f}" in shown.stdout
    assert f"fbank_std  {document['std']:.4f}" in shown.stdout


@pytest.mark.parametrize(
    ("name", "message"), [("clips", "holds no shards"), ("a.json", "holds statistics itself")], ids=lambda name: name
)
def test_stats_that_cannot_be_kept_are_refused_before_they_are_measured(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()  # to measure it, or the sound below that is not there, would fail
    (tmp_path / "a.json").write_text(json.dumps({"fbank_mean": -5, "data": [{"wav": "a.wav", "labels": "x"}]}))
    result = CliRunner().invoke(main, ["data", "stats", str(tmp_path / name), "--write", "--processes", "1"])
    assert result.exit_code == 2
    assert message in result.stderr


def test_speed(extracted: Path) -> None:
    result = run("speed", extracted / "manifest.json", "--workers", 0, "--seconds", 0, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["clips"] == 2
    assert document["clips_per_s"] == pytest.approx(2 / document["seconds"])
    assert document["worker_peak_rss_mb"] == 0
    shown = run("speed", extracted / "manifest.json", "--workers", 0, "--seconds", 0)
    assert "clips/s with 0 workers" in shown.stdout
    assert "MB at most in this process" in shown.stdout


def test_check_passes_what_is_fine(avsynth: Path) -> None:
    result = run("check", avsynth / "test.jsonl", "--labels", avsynth / "labels.csv", "--processes", 1)
    assert result.exit_code == 0
    assert result.stdout == "2 of 2 clips are fine\n"


def test_shards_are_checked_and_measured(avsynth: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for record in read_manifest(avsynth / "valid.jsonl"):
            (tmp_path / "labels.json").write_text(json.dumps({"labels": record.labels}))
            shard.add(tmp_path / "labels.json", f"{record.id}.json")
            shard.add(str(record.video), f"{record.id}.mp4")
    checked = run("check", tmp_path, "--labels", avsynth / "labels.csv", "--processes", 1)
    assert (checked.exit_code, checked.stdout) == (0, "2 of 2 clips are fine\n")
    ours, theirs = (run("stats", data, "--processes", 1).stdout for data in (tmp_path, avsynth / "valid.jsonl"))
    assert ours == theirs


def test_check_warns_of_long_clips(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9999, 9999, 61 * 16000, dtype=np.int16)
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    (tmp_path / "clips.json").write_text(json.dumps({"data": [{"wav": "long.wav", "video_id": "long", "labels": "x"}]}))
    result = run("check", tmp_path / "clips.json", "--processes", 1)
    assert result.exit_code == 0
    assert "long" in result.stdout
    assert "61 s; training hears and sees its first seconds" in result.stdout
    assert "1 of 1 clips are fine" in result.stdout


def test_check_fails_what_is_not(avsynth: Path, tmp_path: Path) -> None:
    source = (avsynth / "test.jsonl").read_text().splitlines()[0]
    entry = {**json.loads(source), "path": str(avsynth / json.loads(source)["path"]), "labels": ["rising disk"]}
    del entry["mask"]
    missing = {"path": "none [1].mp4", "labels": ["rising disc"]}
    (tmp_path / "clips.jsonl").write_text(f"{json.dumps(entry)}\n{json.dumps(missing)}\n")
    arguments = ("check", tmp_path / "clips.jsonl", "--labels", avsynth / "labels.csv", "--processes", 1)
    result = run(*arguments, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["clips"], document["affected"]) == (2, 2)
    assert [(item["clip_id"], item["kind"]) for item in document["problems"]] == [
        ("test-000000", "label"),
        ("none [1]", "missing"),
    ]
    assert "error: 2 of 2 clips have problems" in result.stderr
    shown = run(*arguments)
    assert shown.exit_code == 1
    assert "none [1]" in shown.stdout
    assert "did you mean" in shown.stdout
    assert "0 of 2 clips are fine" in shown.stdout


def test_long_lists_are_cut_on_the_screen_only(tmp_path: Path) -> None:
    lines = "".join(f"none{number}.mp4\n" for number in range(60))
    (tmp_path / "clips.csv").write_text(f"path\n{lines}")
    assert "and 10 more; --json lists all" in run("check", tmp_path / "clips.csv", "--processes", 1).stdout
    document = json.loads(run("check", tmp_path / "clips.csv", "--processes", 1, "--json").stdout)
    assert len(document["problems"]) == 60


@pytest.mark.parametrize("name", ["extract", "stats", "check"])
def test_bad_manifests_are_wrong_use(name: str, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("file\na.mp4\n")
    output = [tmp_path / "out"] if name == "extract" else []
    result = run(name, tmp_path / "clips.csv", *output)
    assert result.exit_code == 2
    assert "line 1: column path is missing" in result.stderr


def test_help_names_the_commands() -> None:
    result = run("--help")
    for name in ("synth", "extract", "stats", "check", "speed"):
        assert name in result.output
