"""Files that no clip can be read from."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from made_media import TONE_HZ, grey, media, tone_level

from kdcmae.errors import DataError
from kdcmae.media.clip import read_clip, read_frames, read_waveform


def refusal(path: Path) -> str:
    """The error for a clip: one line that names the file."""
    with pytest.raises(DataError) as caught:
        read_clip(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "clip.mp4") == "no such file"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a folder, not a clip"


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refusal(tmp_path / "pipe.mp4") == "is a device or pipe, not a clip"


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.touch()
    assert refusal(path) == "is empty (0 bytes)"


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mp4")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"this is no video\n" * 100, b"\x00" * 5000, b"x", b"#EXTM3U\nhttp://localhost/a\n"]
)
def test_a_text_file_named_mp4(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert refusal(path) == "is not a media file, or its header is damaged"


def test_no_audio_stream(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mp4", audio=None)
    assert refusal(path) == "has no audio stream"
    assert grey(read_frames(path))[9] == 45


def test_no_video_stream(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.m4a", video=None)
    assert refusal(path) == "has no video stream"
    assert tone_level(read_waveform(path))[0] == pytest.approx(TONE_HZ, abs=2)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(path, "w") as container:
        sound = container.add_stream("mp3", rate=44100)
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        chunk = av.AudioFrame.from_ndarray(np.zeros((2, 44100), np.float32), format="fltp", layout="stereo")
        chunk.sample_rate = 44100
        container.mux(sound.encode(chunk))
        container.mux(sound.encode(None))
    assert refusal(path) == "has no video stream"
    assert len(read_waveform(path)) == pytest.approx(16000, abs=1000)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip.mp4", {}),
        ("faststart.mp4", {"options": {"movflags": "faststart"}}),
        ("fragmented.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("clip.mkv", {}),
        ("clip.avi", {"video": "mpeg4", "audio": "mp3"}),
        ("clip.flv", {}),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8])
def test_a_truncated_file(name: str, settings: dict[str, object], share: float, tmp_path: Path) -> None:
    path = media(tmp_path / name, **settings)  # type: ignore[arg-type]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(path)
    assert "truncated" in message or "header is damaged" in message or "has no" in message


def test_a_real_clip_cut_short(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes((clips / "00W1lcxW-WU_40.000.mp4").read_bytes()[:-1000])
    assert refusal(path) == "is truncated: its index (the moov box of MP4 and MOV files) is missing"


@pytest.mark.parametrize("reader", [read_clip, read_waveform, read_frames])
def test_every_reader_sees_a_cut(reader: object, tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mkv")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is truncated: its (audio|video) ends after \d\.\d\d of 2\.\d\d s"):
        reader(path)  # type: ignore[operator]


def test_a_damaged_file(clips: Path, tmp_path: Path) -> None:
    content = bytearray((clips / "00W1lcxW-WU_40.000.mp4").read_bytes())
    content[100_000:110_000] = bytes(10_000)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert refusal(path).startswith("is truncated or damaged")


def test_ffmpeg_prints_nothing(clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray((clips / "00W1lcxW-WU_40.000.mp4").read_bytes())
    content[100_000:110_000] = bytes(10_000)
    (tmp_path / "damaged.mp4").write_bytes(content)
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("damaged.mp4", "text.mp4"):
        refusal(tmp_path / name)
    assert capfd.readouterr() == ("", "")
