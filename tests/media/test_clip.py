from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from made_media import TONE_HZ, grey, media, tone_level

from kdcmae.media.clip import Clip, read_clip, read_frames, read_waveform


def assert_whole(clip: Clip, *, count: int = 50, size: tuple[int, int] = (64, 48)) -> None:
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == (10, size[1], size[0], 3)
    assert grey(clip.frames) == [i * count // 10 for i in range(10)]
    assert clip.waveform.dtype == np.float32
    assert clip.sample_rate_hz == 16000
    assert len(clip.waveform) == pytest.approx(16000 * count / 25, abs=3000)
    frequency_hz, amplitude = tone_level(clip.waveform)
    assert frequency_hz == pytest.approx(TONE_HZ, abs=2)
    assert amplitude == pytest.approx(0.5, abs=0.03)  # LAME takes 0.4 dB off


# --- real clips


def test_the_waveform_is_that_of_the_published_extraction(golden: Path, clips: Path) -> None:
    expected = np.load(golden / "fbank.npz")["waveform_int16"] / np.float32(32768)
    waveform = read_waveform(clips / "00W1lcxW-WU_40.000.mp4")
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=0.51 / 32768)  # which is rounded to 16 bits


def test_a_real_clip(clips: Path) -> None:
    path = clips / "00W1lcxW-WU_40.000.mp4"
    clip = read_clip(path)
    assert clip.path == path
    assert clip.frames.shape == (10, 144, 256, 3)
    with av.open(path) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(clip.frames, [every[i * len(every) // 10] for i in range(10)])


def test_reading_one_modality_gives_the_same(clips: Path) -> None:
    clip = read_clip(clips / "00W1lcxW-WU_40.000.mp4")
    np.testing.assert_array_equal(read_waveform(clip.path), clip.waveform)
    np.testing.assert_array_equal(read_frames(str(clip.path)), clip.frames)


# --- containers, codecs, sample rates, channels, sizes


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h264.mp4", {}),
        ("fragmented.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("mpeg4.avi", {"video": "mpeg4", "audio": "mp3"}),
        ("h264.mkv", {"audio": "ac3", "rate": 48000}),
        ("vp9.webm", {"video": "libvpx-vp9", "audio": "libopus", "rate": 48000}),
        ("vp8.webm", {"video": "libvpx", "audio": "libopus", "rate": 48000}),
        ("h264.ts", {}),
        ("h264.mov", {"audio": "pcm_s16le"}),
        ("h264.flv", {}),
    ],
)
def test_containers_and_codecs(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    for codec in (settings.get("video", "libx264"), settings.get("audio", "aac")):
        if codec not in av.codecs_available:
            pytest.skip(f"this build of ffmpeg has no {codec}")
    assert_whole(read_clip(media(tmp_path / name, **settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate", "layout"), [(8000, "mono"), (16000, "mono"), (22050, "stereo"), (44100, "stereo"), (48000, "5.1")]
)
def test_sample_rates_and_channels(rate: int, layout: str, tmp_path: Path) -> None:
    assert_whole(read_clip(media(tmp_path / "clip.mp4", rate=rate, layout=layout)))


@pytest.mark.parametrize("size", [(64, 48), (130, 66), (48, 160), (61, 37)])
def test_frame_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    if size[0] % 2:  # H.264 with 4:2:0 wants even sizes, MPEG-4 does not
        path = media(tmp_path / "clip.mp4", video="mpeg4", size=size)
    else:
        path = media(tmp_path / "clip.mp4", size=size)
    assert_whole(read_clip(path), size=size)


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 29])
def test_short_clips_repeat_frames(count: int, tmp_path: Path) -> None:
    frames = read_frames(media(tmp_path / "clip.mp4", count=count))
    assert grey(frames) == [i * count // 10 for i in range(10)]


def test_variable_frame_rate_counts_frames_not_seconds(tmp_path: Path) -> None:
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 40, 50, 60, 70, 80]
    clip = read_clip(media(tmp_path / "clip.mkv", count=20, times=times))
    assert grey(clip.frames) == [i * 2 for i in range(10)]


def test_frame_counts_in_the_file_are_not_trusted(tmp_path: Path) -> None:
    # AVI's header holds the number of frames, at 48 bytes into the file; say 7 instead of 50.
    path = media(tmp_path / "clip.avi", video="mpeg4", audio="mp3")
    content = bytearray(path.read_bytes())
    content[48:52] = struct.pack("<I", 7)
    path.write_bytes(content)
    assert_whole(read_clip(path))


def test_packets_that_hold_no_frame_of_their_own(tmp_path: Path) -> None:
    source = media(tmp_path / "source.mkv", video="mpeg4", audio=None, count=20)
    path = tmp_path / "clip.mkv"
    with av.open(source) as reader, av.open(path, "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
                empty = av.Packet(b"\x00\x00\x01\xb6\x40")  # MPEG-4 for "no picture coded"
                empty.stream, empty.pts, empty.dts, empty.time_base = stream, packet.pts, packet.dts, packet.time_base
                writer.mux(empty)
    with av.open(path) as reader:
        packets = sum(packet.size > 0 for packet in reader.demux(video=0))
    with av.open(path) as reader:
        decoded = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
    assert packets != len(decoded)
    np.testing.assert_array_equal(read_frames(path), [decoded[i * len(decoded) // 10] for i in range(10)])


def test_a_size_that_changes_on_the_way_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = [media(tmp_path / f"{width}.ts", audio=None, size=(width, 48), count=25) for width in (64, 96)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read_frames(path)
    assert frames.shape == (10, 48, 64, 3)
    assert grey(frames) == [0, 5, 10, 15, 20, 0, 5, 10, 15, 20]


def test_a_sample_rate_that_changes_on_the_way(tmp_path: Path) -> None:
    parts = [media(tmp_path / f"{rate}.ts", video=None, rate=rate) for rate in (44100, 22050)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    waveform = read_waveform(path)
    assert len(waveform) == pytest.approx(4 * 16000, abs=3000)
    for half in np.split(waveform[: len(waveform) // 2 * 2], 2):
        assert tone_level(half)[0] == pytest.approx(TONE_HZ, abs=3)


def test_sound_that_starts_late_is_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    source = media(tmp_path / "source.mp4")
    with av.open(source) as reader, av.open(path, "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.size == 0:
                continue
            if packet.stream.type == "audio":
                packet.pts, packet.dts = (stamp + round(1.5 / packet.time_base) for stamp in (packet.pts, packet.dts))
            packet.stream = copies[packet.stream.index]
            writer.mux(packet)
    assert len(read_waveform(path)) == pytest.approx(2 * 16000, abs=3000)
    assert grey(read_clip(path).frames)[9] == 45


def test_metadata_in_another_encoding_does_not_matter(tmp_path: Path) -> None:
    path = media(tmp_path / "clip.mkv")
    content = path.read_bytes()
    start = content.index(b"Lavf")
    path.write_bytes(content[:start] + b"\xe9\xff\xfe!" + content[start + 4 :])
    assert_whole(read_clip(path))


@pytest.mark.parametrize("name", ["a:b.mp4", "http:clip.mp4", "-i.mp4", "späti 100%d [x].mp4"])
def test_odd_file_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media(tmp_path / "clip.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert_whole(read_clip(name))
