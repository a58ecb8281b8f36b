from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_media import write_wav

from kdcmae.data.check import Problem, check_clips
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.synthetic import write_clip

LABELS = LabelMap(("barking", "singing", "typing"), ("/m/1", "/m/2", "/m/3"))


@pytest.fixture
def records(extracted) -> list[ClipRecord]:  # type: ignore[no-untyped-def]
    return extracted(4)


def found(records: list[ClipRecord], labels: LabelMap | None = LABELS) -> list[tuple[str, str]]:
    return [(problem.clip_id, problem.kind) for problem in check_clips(records, labels, shortest_s=0.4)]


def test_sound_clips_have_no_problems(records: list[ClipRecord]) -> None:
    calls = []
    assert check_clips(records, LABELS, shortest_s=0.4, processes=2, on_clip=lambda: calls.append(1)) == []
    assert len(calls) == 4


def test_missing_and_corrupt_files(records: list[ClipRecord]) -> None:
    for path in (records[0].wav, *records[1].frames[2:5]):
        assert path is not None
        path.unlink()
    records[2].frames[9].write_bytes(b"\xff\xd8")
    problems = check_clips(records, LABELS, shortest_s=0.4)
    assert problems == [
        Problem(clip_id="clip0", kind="missing", detail=str(records[0].wav)),
        Problem(clip_id="clip1", kind="missing", detail=f"{records[1].frames[2]} and 2 more files"),
        Problem(
            clip_id="clip2", kind="corrupt", detail=f"{records[2].frames[9]}: is truncated: its end marker is missing"
        ),
    ]


def test_short_and_silent_sound(extracted, records: list[ClipRecord]) -> None:  # type: ignore[no-untyped-def]
    short = extracted(1, seconds=0.25)
    assert check_clips(short, None) == [Problem(clip_id="clip0", kind="short", detail="0.25 s of sound")]
    quiet = ClipRecord(id="quiet", wav=records[0].wav)
    assert quiet.wav is not None
    content = quiet.wav.read_bytes()
    for level, problems in ((0, [("quiet", "silent")]), (30, [("quiet", "silent")]), (40, [])):
        samples = np.full((len(content) - 44) // 2, level, "<i2")  # -60 dB of full scale is 33
        quiet.wav.write_bytes(content[:44] + samples.tobytes())
        assert found([quiet], None) == problems


def test_labels(records: list[ClipRecord]) -> None:
    wav = records[0].wav
    odd = [
        ClipRecord(id="known", labels=("/m/1", "typing"), wav=wav),
        ClipRecord(id="unknown", labels=("barking", "barkin", "x"), wav=wav),
        ClipRecord(id="none", wav=wav),
    ]
    assert found(odd) == [("unknown", "label"), ("unknown", "label"), ("none", "label")]
    assert found(odd, None) == []


def test_videos_are_decoded_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    sound = np.random.default_rng(0).uniform(-0.4, 0.4, 32000).astype(np.float32)
    write_clip(path, sound, 16000, [np.full((48, 64, 3), 5 * n, np.uint8) for n in range(20)], 10)
    record = ClipRecord(id="a", labels=("typing",), video=path)
    assert found([record]) == []
    content = path.read_bytes()
    start = content.index(b"mdat") + len(content) // 3
    path.write_bytes(content[:start] + bytes(500) + content[start + 500 :])
    assert found([record]) == [("a", "corrupt")]


def test_half_a_clip_is_checked_by_what_it_has(records: list[ClipRecord]) -> None:
    halves = [
        ClipRecord(id="clip0", labels=("typing",), wav=records[0].wav),
        ClipRecord(id="clip1", labels=("typing",), frames_folder=records[1].frames_folder),
    ]
    assert found(halves) == []
    records[1].frames[0].unlink()
    assert found(halves) == [("clip1", "missing")]


def test_a_long_clip_is_a_warning_and_read_in_part(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 61 * 16000)
    write_wav(tmp_path / "long.wav", sound)
    record = ClipRecord(id="a", wav=tmp_path / "long.wav")
    (problem,) = check_clips([record], None, shortest_s=0.1)
    assert (problem.kind, problem.is_warning) == ("long", True)
    assert problem.detail.startswith("61 s; training hears and sees its first seconds")
    _, short = check_clips([record], None, shortest_s=100.0)
    assert (short.kind, short.is_warning) == ("short", False)
