from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from made_media import write_wav

from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import RawClip, read_record
from kdcmae.errors import DataError

SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """16 kHz 16-bit mono, which is read without ffmpeg."""
    write_wav(tmp_path / "a.wav", SOUND)
    return tmp_path / "a.wav"


def read(path: Path, seconds: float | None = None) -> RawClip:
    return read_record(ClipRecord(id="a", wav=path), "audio", (), seconds=seconds)


def samples(path: Path, seconds: float | None = None) -> np.ndarray:
    waveform = read(path, seconds).waveform
    assert waveform is not None
    return waveform


@pytest.mark.parametrize("less", [1, 2, 3, 5001])
def test_a_file_cut_at_any_byte_is_truncated(less: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-less])
    with pytest.raises(DataError, match=rf"a\.wav: is truncated: {less} bytes are missing at its end"):
        read(path)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_size_that_its_writer_did_not_know(size: int, path: Path) -> None:
    expected = samples(path)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    np.testing.assert_array_equal(samples(path), expected)


def test_the_start_of_a_sound_and_the_length_of_all(path: Path) -> None:
    start = read(path, 0.1)
    assert start.waveform is not None
    np.testing.assert_array_equal(start.waveform, samples(path)[:1600])
    assert start.duration_s == read(path).duration_s == 0.5
    np.testing.assert_array_equal(samples(path, 10), samples(path))


def test_a_header_that_python_cannot_follow_is_explained_by_ffmpeg(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:20] = struct.pack("<I", 0xFFFFFFF0)  # the size of the first chunk
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.wav: "):
        read(path)
