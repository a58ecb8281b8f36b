"""``kdcmae listen`` on files and pipes, and its answer where there is no device."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner, Result

from kdcmae.cli import main
from kdcmae.cli.listen import _Display
from kdcmae.media import capture
from kdcmae.runtime import load_engine
from kdcmae.runtime.streaming.results import StreamStatistics


def listen(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["listen", *map(str, arguments)], input=stdin)


def objects(result: Result) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The results and the summary that ``--json`` prints."""
    assert result.exit_code == 0, result.output
    *rows, last = map(json.loads, result.stdout.splitlines())
    return rows, last["summary"]


def matroska(path: Path, folder: Path) -> bytes:
    """The packets of a clip as a pipe has them."""
    copied = folder / "copy.mkv"
    with av.open(path) as source, av.open(copied, "w") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return copied.read_bytes()


def test_a_file_has_the_windows_and_scores_of_classify_file(engine: Path, long_clip: Path) -> None:
    rows, summary = objects(listen(engine, "--file", long_clip, "--pace", 0, "--hop", 0.1, "--top", 4, "--json"))
    with load_engine(engine) as loaded:
        expected = loaded.classify_file(long_clip, hop=0.1, top=4)
    assert summary["windows"] == len(rows) == len(expected.windows)
    for row, window in zip(rows, expected.windows, strict=True):
        assert (row["start_s"], row["end_s"]) == pytest.approx((window.start_s, window.end_s), abs=1e-6)
        scores = {label["label"]: label["score"] for label in row["predictions"]}
        assert scores == pytest.approx({label.label: label.score for label in window.predictions}, abs=1e-6)
    assert summary["silence_s"] == summary["overlap_s"] == summary["late_frames"] == 0


def test_a_pipe_has_the_results_of_its_file(engine: Path, long_clip: Path, tmp_path: Path) -> None:
    from_file, _ = objects(listen(engine, "--file", long_clip, "--pace", 0, "--json"))
    from_pipe, _ = objects(listen(engine, "--pipe", "--json", stdin=matroska(long_clip, tmp_path)))
    assert abs(len(from_pipe) - len(from_file)) <= 1  # Matroska does not say which samples of AAC are padding
    for piped, filed in zip(from_pipe[:7], from_file[:7], strict=True):
        assert piped["end_s"] == pytest.approx(filed["end_s"], abs=0.05)
        assert piped["predictions"][0]["label"] == filed["predictions"][0]["label"]


def test_results_for_people_are_a_line_each_where_nobody_watches(engine: Path, long_clip: Path) -> None:
    result = listen(engine, "--file", long_clip, "--pace", 20, "--hop", 0.3, "--top", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("    0.3")
    assert " ms" in lines[0]
    assert f"{len(lines)} results, latency" in result.stderr


def test_a_terminal_shows_the_latest_result_in_place(
    engine: Path, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = CliRunner().invoke(
        main, ["listen", str(engine), "--file", str(long_clip), "--pace", "0", "--top", "2"], color=True
    )
    assert result.exit_code == 0, result.output
    assert "\x1b[3A" in result.stdout  # over the head and two labels
    assert "dropped of" in result.stdout
    assert "####" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give one source: --file FILE, --pipe, or --camera DEVICE"),
        (("--pipe", "--file", "clip.mp4"), 2, "give one source"),
        (("--file", "none.mp4"), 2, "none.mp4: no such file"),
        (("--pipe", "--option", "rate"), 2, "--option rate: give KEY=VALUE"),
        (("--pipe",), 2, "the pipe cannot be read: Invalid data found when processing input; give it Matroska"),
        (("--file", "none.mp4", "--option", "rate=8"), 2, "--option is for --pipe or --camera or --microphone; leave"),
        (("--file", "none.mp4", "--format", "s16le"), 2, "--format is for --pipe; leave it out"),
        (("--pipe", "--pace", "1"), 2, "--pace is for --file; leave it out"),
        (("--camera", "none", "--microphone", "none", "--modality", "audio"), 2, "--modality is for --file or --pipe"),
        (("--camera", "/dev/none"), 2, "takes audiovisual input: add --microphone DEVICE"),
        (("--camera", "/dev/none", "--microphone", "none"), 3, "list what there is with: "),
        (("--file", "none.mp4", "--hop", "9"), 2, "a hop of 9 s leaves out sound"),
    ],
)
def test_wrong_use_and_missing_devices_are_one_line(
    arguments: tuple[str, ...], code: int, message: str, engine: Path
) -> None:
    result = listen(engine, *arguments, stdin=b"nothing")
    assert result.exit_code == code, result.output
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert message in said


def test_devices_are_captured_at_the_same_time(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = capture._System(
        cameras=("lavfi",),
        microphones=("lavfi",),
        camera="{}",
        microphone="{}",
        list_cameras="",
        list_microphones="",
    )
    monkeypatch.setitem(capture._SYSTEMS, sys.platform, made)
    devices = ("--camera", "testsrc=size=64x48:rate=20", "--microphone", "sine=frequency=440")
    rows, summary = objects(listen(engine, *devices, "--seconds", 0.2, "--json"))
    assert len(rows) == summary["windows"] >= 1
    assert all(row["frame_s"] is not None for row in rows)


def test_ctrl_c_ends_with_a_summary(engine: Path, long_clip: Path) -> None:
    command = [sys.executable, "-m", "kdcmae", "listen", str(engine), "--file", str(long_clip), "--pace", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert ", latency " in errors


@pytest.mark.parametrize(
    ("windows", "said"),
    [(0, "0 results, 0 late, 0 dropped\n"), (1, "1 result, latency 0 ms, p90 0 ms, 0 late, 0 dropped\n")],
)
def test_the_summary_has_latencies_only_of_results(windows: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    _Display(1).summary(StreamStatistics(windows=windows))
    assert capsys.readouterr().err == said


def test_it_stops_after_the_seconds_asked_for(engine: Path, long_clip: Path) -> None:
    rows, summary = objects(listen(engine, "--file", long_clip, "--pace", 1, "--seconds", 0.05, "--json"))
    assert summary["windows"] == len(rows) == 1
