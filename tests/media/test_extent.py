"""What proves that a clip is cut short, and what does not."""

from __future__ import annotations

import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_grid import Case, make
from made_media import media

from kdcmae.errors import DataError
from kdcmae.media.clip import read_clip, read_frames, read_waveform


def sound_file(path: Path, codec: str, seconds: float = 2.0, options: dict[str, str] | None = None) -> Path:
    """Silence, and then noise: its bit rate varies."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(44100 * seconds)).astype(np.float32)
    samples[: len(samples) // 2] *= 1e-3
    with av.open(path, "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=44100)
        stream.layout = "mono"
        if codec == "mp3":
            stream.codec_context.qscale, stream.codec_context.global_quality = True, 2 * 118
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 44100, 0, Fraction(1, 44100)
        container.mux([*stream.encode(sound), *stream.encode(None)])
    return path


def wav_file(path: Path, frames: int = 32000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, frames).astype("<i2").tobytes())
    return path


def cut(path: Path, *, keep: float = 1.0, less: int = 0) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: round(keep * len(content)) - less])
    return path


# --- no proof


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "mp3"), ("a.aac", "aac")])
def test_a_duration_that_ffmpeg_guesses_proves_nothing(name: str, codec: str, tmp_path: Path) -> None:
    if codec == "mp3" and "mp3" not in av.codecs_available:
        pytest.skip("this build of ffmpeg has no mp3 encoder")
    options = {"write_xing": "0"} if codec == "mp3" else None
    path = sound_file(tmp_path / name, codec, 12.0, options)
    assert len(read_waveform(path)) == pytest.approx(12 * 16000, abs=3000)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0])
def test_a_size_that_a_pipe_could_not_know_proves_nothing(size: int, tmp_path: Path) -> None:
    path = wav_file(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF) if size else 0)
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    assert len(read_waveform(path)) == pytest.approx(32000 * 16000 / 44100, abs=20)


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov", "webm"])
def test_subtitles_may_outlast_the_clip(container: str, tmp_path: Path) -> None:
    if container == "webm":
        case = Case(container, "libvpx-vp9", "libopus", "webvtt", ("subtitle", "audio", "video"))
    else:
        subtitle = "subrip" if container == "mkv" else "mov_text"
        case = Case(container, "mpeg4", "aac", subtitle, ("subtitle", "audio", "video"))
    assert len(read_clip(make(case, tmp_path / f"a.{container}")).waveform) > 16000


def test_an_unwanted_stream_may_be_cut(tmp_path: Path) -> None:
    """Sound that ends early is whole in a file whose pictures are cut after it."""
    path = tmp_path / "a.mkv"
    sound, pictures = media(tmp_path / "sound.mkv", video=None, count=25), media(tmp_path / "v.mkv", audio=None)
    with av.open(sound) as first, av.open(pictures) as second, av.open(path, "w") as writer:
        streams = [writer.add_stream_from_template(reader.streams[0]) for reader in (first, second)]
        for reader, stream in zip((first, second), streams, strict=True):
            for packet in reader.demux():
                if packet.size:
                    packet.stream = stream
                    writer.mux(packet)
    expected = read_waveform(path)
    with av.open(path) as reader:
        places = [packet.pos for packet in reader.demux(video=0) if packet.size]
    cut(path, less=path.stat().st_size - places[-10])
    with pytest.raises(DataError, match="is truncated: its video ends"):
        read_frames(path)
    np.testing.assert_array_equal(read_waveform(path), expected)


def test_what_an_edit_list_leaves_out_is_there(tmp_path: Path) -> None:
    """A phone trims a recording by an edit list; the packets after its end stay in the file."""
    path = media(tmp_path / "a.mp4", audio=None, video="mpeg4")
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12  # version, flags, entries
    length = struct.unpack(">I", content[place : place + 4])[0]
    content[place : place + 4] = struct.pack(">I", length // 2)
    path.write_bytes(content)
    assert len(read_frames(path)) == 10


# --- proof


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.flac", "flac"), ("a.ogg", "flac"), ("a.opus", "libopus"), ("a.caf", "pcm_s16le"), ("a.wav", "pcm_s16le")],
)
@pytest.mark.parametrize("keep", [0.6, 0.95, 1.0])
def test_sound_that_states_its_length_is_refused_cut(name: str, codec: str, keep: float, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of ffmpeg has no {codec}")
    if codec == "libopus":
        path = media(tmp_path / name, video=None, audio=codec, rate=48000)
    else:
        path = sound_file(tmp_path / name, codec)
    read_waveform(path)
    with pytest.raises(DataError, match="is truncated"):
        read_waveform(cut(path, keep=keep, less=3))


def test_a_file_that_no_stream_reaches_the_end_of(tmp_path: Path) -> None:
    """Matroska without the statistics of its streams: the file's own duration is left."""
    path = media(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"UNTITLED"))
    read_clip(path)
    with pytest.raises(DataError, match=r"is truncated: it ends after 1\.\d\d of 2\.\d\d s"):
        read_clip(cut(path, keep=0.7))
