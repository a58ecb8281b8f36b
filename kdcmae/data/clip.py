"""Video file -> 16 kHz mono waveform and ten RGB frames, with PyAV.

A clip that cannot be decoded to its end raises; nothing is replaced by silence or black frames. A file is read
twice: once without decoding, to count frames and to see that nothing is missing, once to decode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.stream import Disposition, Stream
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.runtime.resampling import SAMPLE_RATE_HZ

__all__ = ["FRAMES_PER_CLIP", "MIDDLE_FRAME", "Clip", "read_clip", "read_frames", "read_waveform"]

FRAMES_PER_CLIP = 10
MIDDLE_FRAME = 5
"""The frame that the published evaluation looks at; frames count from 0."""

_TOLERANCE_S = 0.25  # containers round durations, and audio and video seldom end together

_Kind = Literal["audio", "video"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A decoded clip.

    Args:
        path: the file.
        waveform: (S,) float32 in [-1, 1], mono.
        sample_rate_hz: of the waveform, 16000.
        frames: (10, H, W, 3) uint8, RGB, upright, evenly spread over the clip.
    """

    path: Path
    waveform: NDArray[np.float32]
    sample_rate_hz: int
    frames: NDArray[np.uint8]


def read_clip(path: str | os.PathLike[str]) -> Clip:
    """Decode the sound and ten frames of a video file.

    Args:
        path: any container and codec ffmpeg knows, any sample rate and number of channels.

    Raises:
        DataError: no such file, not a media file, no audio or video stream, damaged or truncated.

    Source: frame i is number i * n // 10 of n decoded frames, as in the published extraction.
    """
    path = Path(path)
    packets = _survey(path, "audio", "video")
    sound, pictures = _Mono(), _Spread(packets["video"])
    _decode(path, {"audio": sound, "video": pictures})
    return Clip(
        path=path, waveform=sound.waveform(path), sample_rate_hz=SAMPLE_RATE_HZ, frames=_complete(path, pictures)
    )


def read_waveform(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Decode only the sound: (S,) float32, 16 kHz mono. Otherwise as :func:`read_clip`."""
    path = Path(path)
    _survey(path, "audio")
    sound = _Mono()
    _decode(path, {"audio": sound})
    return sound.waveform(path)


def read_frames(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode only the ten frames: (10, H, W, 3) uint8 RGB. Otherwise as :func:`read_clip`."""
    path = Path(path)
    pictures = _Spread(_survey(path, "video")["video"])
    _decode(path, {"video": pictures})
    return _complete(path, pictures)


class _Sink(Protocol):
    """Takes the decoded frames of one stream."""

    def add(self, frame: Any) -> None: ...


class _Mono:
    """Collects audio as 16 kHz mono, 16 bit: mixed down and resampled by ffmpeg as in the published extraction.

    16 bit also for the gain: in floating point ffmpeg mixes stereo down to 0.71 (L + R), in integers to 0.5 (L + R).
    """

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int16]] = []
        self._source: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def add(self, frame: av.AudioFrame) -> None:
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if source != self._source:  # streams may change it on the way, a resampler takes only one
            self._flush()
            self._source = source
            self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        frame.pts = None
        self._resample(frame)

    def waveform(self, path: Path) -> NDArray[np.float32]:
        self._flush()
        if not self._parts:
            raise DataError(f"{path}: the audio stream holds no samples")
        return np.divide(np.concatenate(self._parts), 32768, dtype=np.float32)

    def _flush(self) -> None:
        self._resample(None)
        self._resampler = None

    def _resample(self, frame: av.AudioFrame | None) -> None:
        if self._resampler is not None:
            self._parts += [part.to_ndarray()[0] for part in self._resampler.resample(frame)]


class _Spread:
    """Keeps the ten evenly spread frames of ``expected``, and counts how many there really are."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.count = 0
        self._numbers = [i * expected // FRAMES_PER_CLIP for i in range(FRAMES_PER_CLIP)]
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._size: tuple[int, int] | None = None

    def add(self, frame: av.VideoFrame) -> None:
        if self.count in self._numbers:
            # A stream may change its size on the way: like ffmpeg, scale to the first one.
            self._size = self._size or (frame.width, frame.height)
            rgb = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
            self._kept[self.count] = np.rot90(rgb, round(frame.rotation / 90))
        self.count += 1

    def frames(self) -> NDArray[np.uint8]:
        return np.stack([self._kept[number] for number in self._numbers])


def _complete(path: Path, pictures: _Spread) -> NDArray[np.uint8]:
    """The ten frames, decoded again in the rare file whose packets are not one frame each."""
    if pictures.count == 0:
        raise DataError(f"{path}: the video stream holds no frames")
    if pictures.count != pictures.expected:
        pictures = _Spread(pictures.count)
        _decode(path, {"video": pictures})
    return pictures.frames()


def _decode(path: Path, sinks: Mapping[_Kind, _Sink]) -> None:
    with _opened(path) as container:
        sink_of = {_stream(path, container, kind).index: sink for kind, sink in sinks.items()}
        for index in sink_of:
            container.streams[index].codec_context.thread_type = "AUTO"
        for packet in container.demux([container.streams[index] for index in sink_of]):
            for frame in packet.decode():
                sink_of[packet.stream_index].add(frame)


def _survey(path: Path, *kinds: _Kind) -> dict[_Kind, int]:
    """See, without decoding, that the streams are there and reach as far as the file declares.

    Returns:
        The number of packets in each stream; for video, in most files, that is the number of frames.
    """
    with _opened(path) as container:
        wanted = {kind: _stream(path, container, kind).index for kind in kinds}
        streams = (*container.streams.audio, *container.streams.video)
        spans = {stream.index: _Span() for stream in streams if not _is_cover(stream)}
        for packet in container.demux([container.streams[index] for index in spans]):
            spans[packet.stream_index].add(packet)
        for index, span in spans.items():
            stream = container.streams[index]
            if span.ends_corrupt:
                raise DataError(f"{path}: is truncated: the last packet of its {stream.type} is incomplete")
            if stream.duration is not None and stream.time_base is not None:
                declared_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
                _require_end(path, span.end_s, declared_s, f"its {stream.type}")
        if container.duration is not None:  # counted from zero, not from the first packet
            last_s = max(span.end_s for span in spans.values())
            _require_end(path, last_s, container.duration / av.time_base, "it")
        return {kind: spans[index].packets for kind, index in wanted.items()}


class _Span:
    """What the packets of one stream cover."""

    def __init__(self) -> None:
        self.packets = 0
        self.ends_corrupt = False  # only the last packet counts: streams joined in MPEG-TS have one at each seam
        self.end_s = 0.0

    def add(self, packet: av.Packet[Any]) -> None:
        if packet.size == 0 or packet.is_discard:
            return
        self.packets += 1
        self.ends_corrupt = packet.is_corrupt
        if packet.pts is not None:
            self.end_s = max(self.end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))


def _require_end(path: Path, end_s: float, declared_s: float, what: str) -> None:
    if end_s < declared_s - _TOLERANCE_S:
        raise DataError(f"{path}: is truncated: {what} ends after {end_s:.2f} of {declared_s:.2f} s")


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """Open a clip; ffmpeg's errors become one line that names the file."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: is a {'folder' if path.is_dir() else 'device or pipe'}, not a clip")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes)")
    try:
        # An absolute path, lest ffmpeg takes "a:b.mp4" for a protocol; files only, lest a playlist opens the network.
        container = av.open(
            os.path.abspath(path), "r", metadata_errors="ignore", container_options={"protocol_whitelist": "file"}
        )
    except av.FFmpegError as error:
        raise DataError(f"{path}: {_why_unreadable(path, error)}") from error
    with container:
        if missing := _missing_bytes(path):
            raise DataError(f"{path}: is truncated: {missing} bytes are missing at its end")
        try:
            yield container
        except av.FFmpegError as error:
            raise DataError(f"{path}: is truncated or damaged: {error.strerror}") from error


def _why_unreadable(path: Path, error: av.FFmpegError) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror}"
    if _head(path)[4:8] == b"ftyp":
        return "is truncated: its index (the moov box of MP4 and MOV files) is missing"
    return "is not a media file, or its header is damaged"


def _missing_bytes(path: Path) -> int:
    """How many bytes an AVI or WAV file lacks; they state their size, where the others state a duration."""
    head = _head(path)
    declared = int.from_bytes(head[4:8], "little") + 8
    if head[:4] != b"RIFF" or declared > 2**31:  # writers that do not know the size yet state the largest
        return 0
    return max(0, declared - path.stat().st_size - 1)  # the last byte may be padding


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _stream(path: Path, container: InputContainer, kind: _Kind) -> Stream:
    stream = container.streams.best(kind)
    if stream is None or _is_cover(stream):
        raise DataError(f"{path}: has no {kind} stream")
    if stream.codec_context is None:
        raise DataError(f"{path}: its {kind} stream uses a codec that this build of ffmpeg cannot decode")
    return stream


def _is_cover(stream: Stream) -> bool:
    """A picture of a song's cover, which containers store as a video stream of one frame."""
    return bool(stream.disposition & Disposition.attached_pic)
