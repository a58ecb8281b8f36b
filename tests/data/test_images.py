from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.images import read_image, write_image
from kdcmae.errors import DataError


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([4 * rows, 3 * columns, 128 + rows - columns], axis=2).clip(0, 255).astype(np.uint8)


def test_png_is_exact(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", gradient(47, 63))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), gradient(47, 63))


def test_a_grey_png_comes_back_as_rgb(tmp_path: Path) -> None:
    grey = gradient()[..., 0]
    write_image(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["a.jpg", "späti 100%d [x].JPEG"])
def test_jpeg_is_close(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / name, gradient())
    error = read_image(tmp_path / name).astype(int) - gradient()
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.3  # full range and the right matrix: no colour cast


def test_jpeg_keeps_black_and_white(tmp_path: Path) -> None:
    for level in (0, 100, 255):
        write_image(tmp_path / "a.jpg", np.full((16, 16, 3), level, np.uint8))
        assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - level).max() == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_picture(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    write_image(path, gradient())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"is (truncated|damaged)"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(
    "trailer", [bytes(5000), b"\x00\x00\x00\x18ftypmp42" + bytes(100_000), b"MotionPhoto_Data\xff\xd8"]
)
def test_what_follows_a_picture_is_none_of_it(name: str, trailer: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    write_image(path, gradient())
    expected = read_image(path)
    content = path.read_bytes()
    path.write_bytes(content + trailer)
    np.testing.assert_array_equal(read_image(path), expected)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is (truncated|damaged)"):
        read_image(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_the_end_of_a_thumbnail_is_not_that_of_its_picture(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_image(path, gradient(16, 16))
    thumbnail = path.read_bytes()
    write_image(path, gradient())
    picture = path.read_bytes()
    expected = read_image(path)
    header = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    path.write_bytes(picture[:2] + header + picture[2:])
    np.testing.assert_array_equal(read_image(path), expected)
    path.write_bytes((picture[:2] + header + picture[2:])[: 4 + len(thumbnail) + int(share * len(picture))])
    with pytest.raises(DataError, match="is truncated"):
        read_image(path)


def test_a_size_that_nobody_has_pictures_of(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, gradient())
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        read_image(path)


def test_a_damaged_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:50] = bytes(50)
    path.write_bytes(content[: len(content) // 2] + bytes(50) + content[len(content) // 2 + 50 :])
    with pytest.raises(DataError, match="is damaged"):
        read_image(path)


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"GIF89a", "neither"), (None, "no such file")])
def test_what_is_no_picture(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a.gif", gradient(), "written as .jpg \\(RGB\\) or .png"),
        ("a.png", gradient().astype(np.float32), "dtype float32"),
        ("a.png", np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
    ],
)
def test_what_cannot_be_written(name: str, picture: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write_image(tmp_path / name, picture)
