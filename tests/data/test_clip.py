from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from kdcmae.data.clip import Clip, read_clip, read_frames, read_waveform
from kdcmae.errors import DataError
from kdcmae.runtime.resampling import resample

TONE_HZ = 440.0


def media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    rate: int = 44100,
    layout: str = "stereo",
    size: tuple[int, int] = (64, 48),
    count: int = 50,
    fps: int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Frame i is one grey level, 5 * i; the sound is a tone of amplitude 0.5 in every channel."""
    with av.open(path, "w", options=options or {}) as container:
        if video is not None:
            pictures = container.add_stream(video, rate=fps)
            pictures.width, pictures.height = size
            pictures.pix_fmt = "yuv420p"
            pictures.bit_rate = 4_000_000
        if audio is not None:
            sound = container.add_stream(audio, rate=rate)
            sound.layout = layout
            time_s = np.arange(rate * count // fps) / rate
            tone = (0.5 * np.sin(2 * np.pi * TONE_HZ * time_s)).astype(np.float32)
            channels = np.tile(tone, (av.AudioLayout(layout).nb_channels, 1))
            chunk = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
            chunk.sample_rate = rate
            container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
        if video is not None:
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 5 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = (times[number] if times else number), Fraction(1, fps)
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
    return path


def grey(frames: NDArray[np.uint8]) -> list[int]:
    """Which frames of a clip of :func:`media` these are."""
    return [round(float(frame[8:-8, 8:-8].mean()) / 5) for frame in frames]


def tone_level(waveform: NDArray[np.float32]) -> tuple[float, float]:
    """Frequency and amplitude of the strongest tone."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return spectrum.argmax() * 16000 / len(middle), float(middle.std() * np.sqrt(2))


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
    np.testing.assert_array_equal(read_waveform(clips / "00W1lcxW-WU_40.000.mp4"), expected)


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


def test_our_resampler_agrees_with_ffmpegs(clips: Path) -> None:
    path = clips / "00W1lcxW-WU_40.000.mp4"
    with av.open(path) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    ours, ffmpegs = resample(np.concatenate(decoded, axis=1), rate), read_waveform(path)
    length = min(len(ours), len(ffmpegs))
    difference = ours[:length] - ffmpegs[:length]
    assert difference.std() < 0.02 * ffmpegs.std()  # the two differ only in the last tenth below 8 kHz


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


@pytest.mark.parametrize(("quarter_turns", "corner"), [(1, (0, -1)), (2, (-1, -1)), (3, (-1, 0))])
def test_rotated_recordings_come_upright(quarter_turns: int, corner: tuple[int, int], tmp_path: Path) -> None:
    """A phone held sideways: the picture as stored has its white corner at the top left."""
    path = tmp_path / "phone.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    turn_clockwise(path, quarter_turns)
    frame = read_frames(path)[0]
    assert frame.shape == ((64, 48, 3) if quarter_turns % 2 else (48, 64, 3))
    y, x = (8 if part == 0 else -8 for part in corner)
    assert frame[y, x].min() > 200
    assert frame[-y, -x].max() < 50


def turn_clockwise(path: Path, quarter_turns: int) -> None:
    """Set the display matrix in the track header of an MP4 file, as phones do."""
    one = 1 << 16
    a, b = {1: (0, one), 2: (-one, 0), 3: (0, -one)}[quarter_turns]
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version, times, ids, layer, volume come first
    assert content[matrix : matrix + 4] == struct.pack(">i", one)
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


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


# --- what cannot be used


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
    with pytest.raises(DataError, match=r"is truncated: it ends after \d\.\d\d of 2\.\d\d s"):
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
