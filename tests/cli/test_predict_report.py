from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from predicting import LABELS, SMALL, answer, run, scores

from kdcmae.cli.predict_report import progress_of
from kdcmae.data.clip import read_clip
from kdcmae.data.images import read_image
from kdcmae.media.windows import Windowing
from kdcmae.runtime import load_engine
from kdcmae.runtime.preprocessing import Preprocessing


def test_a_long_clip_has_scores_over_time(engine: Path, model: Path, long_clip: Path) -> None:
    length = Preprocessing(audio_frames=SMALL["audio_length"]).audio_samples
    decoded = read_clip(long_clip)
    found = answer(engine, long_clip, "--top", "9")["clips"][0]
    starts = Windowing(length=length, hop=length // 2).starts(len(decoded.waveform))
    assert [round(window["start_s"] * 16000) for window in found["windows"]] == pytest.approx(starts, abs=1)
    with load_engine(engine) as loaded:
        for window, start in zip(found["windows"], starts, strict=True):
            frame = decoded_frame(long_clip, start / 16000, (start + length) / 16000)
            expected = loaded.classify(decoded.waveform[start : start + length], 16000, frame)
            assert scores(window) == pytest.approx({p.label: p.score for p in expected}, abs=1e-5)
    means = {label: np.mean([scores(window)[label] for window in found["windows"]]) for label in LABELS}
    assert scores(found) == pytest.approx(means, abs=1e-6)
    assert scores(answer(model, long_clip)["clips"][0]) == pytest.approx(means, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"window": 0.2, "hop": 0.15}, {"average_frames": True}])
def test_an_engine_gives_a_file_the_windows_and_scores_of_predict(
    options: dict[str, Any], engine: Path, long_clip: Path
) -> None:
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    arguments = [part for part in given if part is not True]
    expected = answer(engine, long_clip, "--top", "4", *arguments)["clips"][0]
    with load_engine(engine) as loaded:
        result = loaded.classify_file(long_clip, top=4, **options)
    assert {p.label: p.score for p in result.predictions} == pytest.approx(scores(expected))
    for window, theirs in zip(result.windows, expected["windows"], strict=True):
        assert (window.start_s, window.end_s) == pytest.approx((theirs["start_s"], theirs["end_s"]), abs=1e-4)
        assert {p.label: p.score for p in window.predictions} == pytest.approx(scores(theirs))


def decoded_frame(path: Path, start_s: float, end_s: float) -> np.ndarray:
    """The sixth of ten frames that are spread over a span of time."""
    with av.open(path) as container:
        frames = [frame for frame in container.decode(video=0) if start_s <= frame.time < end_s]
    picture = frames[5 * len(frames) // 10].to_ndarray(format="rgb24")
    return np.asarray(picture)


def test_a_table_over_time_for_people(model: Path, long_clip: Path) -> None:
    lines = run(model, long_clip).stdout.splitlines()
    assert lines[0] == str(long_clip)
    assert lines[3].startswith("0:00.0 - 0:00.3  ")
    assert f"mean of {lines.index(next(x for x in lines if 'mean' in x)) - 3} windows:" in lines
    many = run(model, long_clip, "--hop", 0.02).stdout.splitlines()
    assert len(many) < 60
    assert any("highest" in line for line in many)


def test_windows_as_one_asks_for_them(model: Path, long_clip: Path) -> None:
    windows = answer(model, long_clip, "--window", 0.2, "--hop", 0.15)["clips"][0]["windows"]
    assert [window["start_s"] for window in windows][:4] == [0, 0.15, 0.3, 0.45]
    assert all(window["end_s"] - window["start_s"] == pytest.approx(0.2) for window in windows)
    result = run(model, long_clip, "--window", 5)
    assert result.exit_code == 2
    assert "a window of 5 s is more than the 0.34 s that the model hears" in result.stderr


def test_a_hop_that_leaves_out_sound_is_refused(model: Path, long_clip: Path, tmp_path: Path) -> None:
    page = tmp_path / "time.html"
    result = run(model, long_clip, "--window", 0.2, "--hop", 1000, "--timeline", page)
    assert result.exit_code == 2
    assert "a hop of 1000 s leaves out sound between windows of 0.2 s; give a hop" in result.stderr
    assert not page.exists()


@pytest.mark.parametrize("name", ["time.html", "time.png"])
def test_a_timeline_is_a_picture_or_a_page(name: str, model: Path, long_clip: Path, tmp_path: Path) -> None:
    result = run(model, long_clip, "--timeline", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert f"written to {tmp_path / name}" in result.stderr
    if name.endswith("png"):
        assert read_image(tmp_path / name).shape[1] > 1000
    else:
        page = (tmp_path / name).read_text()
        assert "dog [barking], 0:00.0" in page
        assert "://" not in page


def test_a_full_disk_leaves_the_old_timeline(
    model: Path, clip: Path, tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    page = tmp_path / "time.html"
    page.write_text("old")
    with full_disk():
        result = run(model, clip, "--timeline", page)
    assert result.exit_code == 2
    assert "time.html: no space left on the device" in result.stderr
    assert page.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "clips", "message"),
    [
        ("time.pdf", 1, "give a name that ends in .png or .html"),
        ("time.png", 2, "--timeline draws one clip, and there are 2"),
        ("no/time.html", 1, "there is no folder"),
    ],
)
def test_a_timeline_that_cannot_be_drawn(
    name: str, clips: int, message: str, model: Path, clip: Path, tmp_path: Path
) -> None:
    result = run(model, *[clip] * clips, "--timeline", tmp_path / name)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_progress_of_a_long_clip(capsys: pytest.CaptureFixture[str]) -> None:
    """Many windows are said before the first is scored, and every ten seconds how far they are."""
    with progress_of(Path("long.mp4"), seconds=iter((0.0, 6.0, 12.0, 12.0)).__next__) as progress:
        progress(0, 100)
        assert capsys.readouterr().err.strip() == "long.mp4: 100 windows"
        progress(50, 100)
        assert capsys.readouterr().err == ""
        progress(60, 100)
        assert capsys.readouterr().err.strip() == "long.mp4: window 60 of 100"
        progress(0, 11)
    assert capsys.readouterr().err == ""
