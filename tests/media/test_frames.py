from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from made_grid import require_ffmpeg

from kdcmae.media.clip import read_frames
from kdcmae.media.frame_numbers import spread_numbers

ONE = 1 << 16
# The eight ways to lay a picture down: (a, b, c, d) of the display matrix, and what it does to an array of rows.
TURNS = {
    "as stored": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "half turn": (-1, 0, 0, -1),
    "counterclockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "mirrored and clockwise": (0, -1, -1, 0),
    "mirrored and counterclockwise": (0, 1, 1, 0),
}


def quadrants(folder: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A video whose four corners have four grey levels, with a display matrix in the track header of its MP4 file."""
    path = folder / "phone.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = 40, 100, 160, 220
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    a, b, c, d = (ONE * entry for entry in matrix)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version, times, ids, layer, volume come first
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def corners(frame: np.ndarray) -> list[int]:
    """Which of the four levels each quarter of a frame has, row by row."""
    height, width = (side // 2 for side in frame.shape[:2])
    parts = (frame[:height, :width], frame[:height, width:], frame[height:, :width], frame[height:, width:])
    return [round((float(part[4:-4, 4:-4].mean()) - 40) / 60) for part in parts]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("as stored", [0, 1, 2, 3]),
        ("clockwise", [2, 0, 3, 1]),
        ("half turn", [3, 2, 1, 0]),
        ("counterclockwise", [1, 3, 0, 2]),
        ("mirrored", [1, 0, 3, 2]),
        ("upside down", [2, 3, 0, 1]),
        ("mirrored and clockwise", [3, 1, 2, 0]),
        ("mirrored and counterclockwise", [0, 2, 1, 3]),
    ],
)
def test_pictures_come_upright_and_unmirrored(turn: str, expected: list[int], tmp_path: Path) -> None:
    frame = read_frames(quadrants(tmp_path, TURNS[turn]))[0]
    assert frame.shape == ((48, 64, 3) if TURNS[turn][0] else (64, 48, 3))
    assert corners(frame) == expected


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_lie_as_ffmpeg_lays_them(turn: str, tmp_path: Path) -> None:
    path = quadrants(tmp_path, TURNS[turn])
    command = [require_ffmpeg(), "-v", "error", "-nostdin", "-i", str(path), "-frames:v", "1"]
    pixels = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    frame = read_frames(path)[0]
    theirs = np.frombuffer(pixels.stdout, np.uint8).reshape(frame.shape)
    assert np.abs(frame.astype(int) - theirs).max() <= 3


@pytest.mark.parametrize(
    ("codec", "layout", "options"),
    [
        ("mpeg2video", "yuv420p", {"flags": "+ilme+ildct"}),
        ("ffv1", "yuv420p10le", {}),
        ("ffv1", "yuv422p", {}),
        ("ffv1", "yuva420p", {}),
    ],
)
def test_colours_are_those_of_ffmpeg(codec: str, layout: str, options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    blocks = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, layout, 8_000_000
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(blocks.repeat(4, axis=0).repeat(4, axis=1), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=layout)))
        container.mux(stream.encode(None))
    command = [require_ffmpeg(), "-v", "error", "-nostdin", "-i", str(path), "-frames:v", "1"]
    pixels = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    theirs = np.frombuffer(pixels.stdout, np.uint8).reshape(48, 64, 3)
    assert np.abs(read_frames(path)[0].astype(int) - theirs).max() <= 3


def test_a_matrix_of_zeros_leaves_the_picture(tmp_path: Path) -> None:
    assert corners(read_frames(quadrants(tmp_path, (0, 0, 0, 0)))[0]) == [0, 1, 2, 3]


def test_the_spread_of_the_published_extraction() -> None:
    assert spread_numbers(0, 25) == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert spread_numbers(0, 1) == [0] * 10
