"""Damage that decoders conceal."""

from __future__ import annotations

import random
import struct
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from made_media import media

from kdcmae.errors import DataError
from kdcmae.media.clip import read_clip, read_frames, read_waveform

THREADS = pytest.mark.parametrize("threads", [1, 2, 8])


def damaged(path: Path, kind: str) -> Path:
    """Overwrite the middle third of some packets in the middle of a stream."""
    with av.open(path) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(**{kind: 0}) if packet.size]
    content, rng = bytearray(path.read_bytes()), random.Random(3)
    for place, size in packets[len(packets) // 2 :][:3]:
        start = place + size // 3
        content[start : start + max(8, size // 3)] = rng.randbytes(max(8, size // 3))
    path.write_bytes(content)
    return path


def busy(path: Path, codec: str) -> Path:
    """Pictures of noise, so that damage does not hide in empty packets."""
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.bit_rate = 96, 64, 2_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for _ in range(24):
            picture = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@THREADS
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mp4", "mpeg4"), ("a.mkv", "mpeg2video"), ("a.avi", "mjpeg"), ("a.flv", "flv")],
)
def test_pictures_that_were_concealed_are_refused(name: str, codec: str, threads: int, tmp_path: Path) -> None:
    path = busy(tmp_path / name, codec)
    assert len(read_frames(path, threads=threads)) == 10
    with pytest.raises(DataError, match="damaged"):
        read_frames(damaged(path, "video"), threads=threads)


@THREADS
@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.mkv", "flac"), ("a.mkv", "ac3"), ("a.m4a", "aac")])
def test_sound_that_fails_its_check_is_refused(name: str, codec: str, threads: int, tmp_path: Path) -> None:
    path = media(tmp_path / name, video=None, audio=codec)
    read_waveform(path, threads=threads)
    with pytest.raises(DataError, match="damaged"):
        read_waveform(damaged(path, "audio"), threads=threads)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_page_that_ffmpeg_leaves_out_is_damage(place: float, tmp_path: Path) -> None:
    path = media(tmp_path / "a.ogg", video=None, audio="flac")
    whole = read_waveform(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged: its page at byte \d+ fails its checksum"):
        read_waveform(path)
    content[int(place * len(content))] ^= 1
    path.write_bytes(content + b"TAG" + bytes(125))  # ID3, as some programs append it to anything
    np.testing.assert_array_equal(read_waveform(path), whole)


def test_the_default_stream_is_read_and_of_equals_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(path, "w") as container:
        streams = []
        for side in (32, 64, 48):
            stream = container.add_stream("mpeg4", rate=25)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            streams.append(stream)
        for stream in streams:
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(stream.width, stream.height, "yuv420p")))
            container.mux(stream.encode(None))
    assert read_frames(path).shape == (10, 64, 64, 3)


def test_a_cut_in_the_middle_of_a_frame_is_seen_by_every_reader(tmp_path: Path) -> None:
    path = media(tmp_path / "a.ts")
    path.write_bytes(path.read_bytes()[: int(0.5 * path.stat().st_size)])
    with pytest.raises(DataError, match=r"truncated|damaged"):
        read_clip(path)


@pytest.mark.parametrize("rate", [1, 999, 1_694_546_816])
def test_a_sample_rate_that_no_sound_has(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(bytes(4000))
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"its sample rate of {rate} Hz is that of no sound"):
        read_waveform(path)


def test_a_picture_of_gigabytes(tmp_path: Path) -> None:
    path = busy(tmp_path / "a.avi", "mjpeg")
    content = path.read_bytes()
    frame_header = b"\xff\xc0\x00\x11\x08"  # its height and width follow
    assert content.count(frame_header + struct.pack(">HH", 64, 96)) == 24
    large = content.replace(frame_header + struct.pack(">HH", 64, 96), frame_header + struct.pack(">HH", 30000, 30000))
    path.write_bytes(large)
    with pytest.raises(DataError, match=r"a\.avi: is truncated or damaged"):
        read_frames(path)
