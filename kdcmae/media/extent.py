"""The extent of a media file's packets, and whether its streams are truncated, without decoding.

A stream is refused as truncated only if the file's own statements about that stream prove it: ffmpeg estimates
durations that a file does not state from its size and bit rate, a subtitle may outlast the film, and a recorder that
writes into a pipe cannot know a size beforehand.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Stream

from kdcmae.errors import DataError
from kdcmae.media.container import find_stream, is_cover, opened, packets_of
from kdcmae.media.endings import damaged_page, missing_bytes, states_frames, states_size
from kdcmae.media.kinds import Kind

__all__ = ["Track", "require_decoded", "survey"]

_MICROSECOND = Fraction(1, av.time_base)
_TOLERANCE_S = 0.25  # containers round durations, and audio and video seldom end together
_TOLERANCE_OF_SAMPLES_S = 0.001

# Files of one sound state its samples. Where a writer into a pipe left the size open, ffmpeg reads to the end of the
# file, and a short last packet is usual.
_OPEN_ENDED = {"wav", "caf", "au"}
_SAMPLES = {*_OPEN_ENDED, "w64", "aiff", "flac", "wv", "tta", "ape"}
# What states a duration for each of its streams, and what states one for all of them together.
_STREAM_DURATIONS = {*_SAMPLES, "mov", "avi", "mp3"}
_FILE_DURATIONS = {"matroska", "flv", "asf"}


@dataclass(kw_only=True)
class Track:
    """The packets of one stream.

    Args:
        time_base: seconds per tick.
        is_video: keyframes are kept; every packet of a sound is one.
        packets: that hold something to show.
        pts: when those are shown, in ticks, in the order of the file; a packet that does not say so leaves it shorter
            than ``packets``.
        keys: of those that decoding can start at, when they are shown and when they are decoded.
        start, end: where the first packet begins and the last one ends, in ticks.
        shown_from: where the first packet that holds something to show begins, in ticks.
        ends_corrupt: the last packet is incomplete; those before may be where streams were joined.
        stated_s: how long the sound is to the sample, where the file says so.
    """

    time_base: Fraction
    is_video: bool = False
    packets: int = 0
    pts: array[int] = field(default_factory=lambda: array("q"))
    keys: list[tuple[int, int]] = field(default_factory=list)
    start: int | None = None
    end: int = 0
    shown_from: int | None = None
    ends_corrupt: bool = False
    stated_s: float | None = None

    @property
    def end_s(self) -> float:
        """When the last packet ends, in seconds."""
        return float(self.end * self.time_base)

    @property
    def duration_s(self) -> float:
        """From the first packet to the end of the last."""
        return float((self.end - (self.start or 0)) * self.time_base)

    @property
    def shown_from_s(self) -> float:
        """When the shown part begins, in seconds."""
        return float((self.shown_from or 0) * self.time_base)

    def shown_s(self) -> list[float]:
        """When each frame is shown, in order; evenly spaced if the file does not state every time."""
        if len(self.pts) == self.packets:
            return [float(stamp * self.time_base) for stamp in sorted(self.pts)]
        length_s = self.end_s - self.shown_from_s
        return [self.shown_from_s + number * length_s / self.packets for number in range(self.packets)]

    def add(self, packet: av.Packet[Any]) -> None:
        """Count a packet."""
        if packet.size == 0:
            return
        self.ends_corrupt = packet.is_corrupt
        shown, decoded = packet.pts, packet.dts
        stamp = decoded if shown is None else shown
        if stamp is not None:  # in ticks, because there may be millions of packets
            self.end = max(self.end, stamp + (packet.duration or 0))
            self.start = stamp if self.start is None else min(self.start, stamp)
        if self.is_video and packet.is_keyframe and shown is not None:
            self.keys.append((shown, shown if decoded is None else decoded))
        if packet.is_discard:  # an edit list leaves it out, though frames that are shown may need it
            return
        if stamp is not None:
            self.shown_from = stamp if self.shown_from is None else min(self.shown_from, stamp)
        self.packets += 1
        if shown is not None:
            self.pts.append(shown)


def survey(path: Path, *kinds: Kind) -> dict[Kind, Track]:
    """Check that the streams exist and are not truncated.

    Args:
        path: of the file.
        kinds: the streams that are wanted; the others of the file may be damaged.

    Raises:
        DataError: a stream is missing, or truncated.
    """
    with opened(path) as container:
        wanted = {kind: find_stream(path, container, kind) for kind in kinds}
        streams = list(wanted.values())
        if _names(container) & _FILE_DURATIONS:  # which may be that of any stream
            streams = [stream for stream in container.streams if stream.type != "attachment" and not is_cover(stream)]
        tracks = {
            stream.index: Track(time_base=stream.time_base or _MICROSECOND, is_video=stream.type == "video")
            for stream in streams
        }
        for packet in packets_of(container, streams):
            tracks[packet.stream.index].add(packet)
        if missing := missing_bytes(path):
            raise DataError(f"{path}: is truncated: {missing} bytes are missing at its end")
        if "ogg" in _names(container) and (page := damaged_page(path)) is not None:
            raise DataError(f"{path}: is damaged: its page at byte {page} fails its checksum")
        unsure = False
        for stream in wanted.values():
            unsure |= not _require_whole(path, container, stream, tracks[stream.index])
        if unsure:
            _require_whole_file(path, container, tracks.values())
        return {kind: tracks[stream.index] for kind, stream in wanted.items()}


def require_decoded(path: Path, track: Track, decoded_s: float) -> None:
    """Check that the decoder lost no sound, if the file states its length.

    Args:
        path: of the file.
        track: of its sound.
        decoded_s: length of all decoded sound.

    Raises:
        DataError: the sound is shorter than the file states.
    """
    _require_end(path, decoded_s, track.stated_s, "what can be decoded of its audio", _TOLERANCE_OF_SAMPLES_S)


def _require_whole(path: Path, container: InputContainer, stream: Stream, track: Track) -> bool:
    """Check that a stream reaches its stated end; returns whether the file states one."""
    names = _names(container)
    if track.ends_corrupt and not names & _OPEN_ENDED:
        raise DataError(f"{path}: is truncated: the last packet of its {stream.type} is incomplete")
    stated_s = _stated_end_s(path, names, container, stream)
    exact = bool(names & _SAMPLES)
    _require_end(path, track.end_s, stated_s, f"its {stream.type}", _TOLERANCE_OF_SAMPLES_S if exact else _TOLERANCE_S)
    track.stated_s = stated_s if exact else None
    return stated_s is not None


def _require_whole_file(path: Path, container: InputContainer, tracks: Iterable[Track]) -> None:
    """Check that at least one stream reaches the stated end of the file; otherwise the file is truncated."""
    if _names(container) & _FILE_DURATIONS and container.duration is not None:
        stated_s = _unless_estimated(path, container, container.duration / av.time_base)
        _require_end(path, max(track.end_s for track in tracks), stated_s, "it", _TOLERANCE_S)


def _names(container: InputContainer) -> set[str]:
    return set(container.format.name.split(","))


def _require_end(path: Path, end_s: float, stated_s: float | None, what: str, tolerance_s: float) -> None:
    if stated_s is not None and end_s < stated_s - tolerance_s:
        raise DataError(f"{path}: is truncated: {what} ends after {end_s:.2f} of {stated_s:.2f} s")


def _stated_end_s(path: Path, names: set[str], container: InputContainer, stream: Stream) -> float | None:
    """Where the file says that a stream ends, if it does."""
    if "matroska" in names:
        return _tagged_s(stream)
    if not names & _STREAM_DURATIONS or stream.duration is None or stream.time_base is None:
        return None
    if ("mp3" in names and not states_frames(path)) or ("avi" in names and not states_size(path)):
        return None
    return _unless_estimated(path, container, float(((stream.start_time or 0) + stream.duration) * stream.time_base))


def _unless_estimated(path: Path, container: InputContainer, stated_s: float) -> float | None:
    """The duration, or None if ffmpeg estimated it from the size and the bit rate."""
    rates: list[int] = [stream.codec_context.bit_rate or 0 for stream in container.streams if stream.codec_context]
    bit_rate = sum(rates)
    if bit_rate and abs(8 * path.stat().st_size / bit_rate - stated_s) < 0.02 * stated_s:
        return None
    return stated_s


def _tagged_s(stream: Stream) -> float | None:
    """What the statistics of a Matroska file say, such as ``00:00:03.023000000``."""
    text = next((value for name, value in stream.metadata.items() if name.upper().startswith("DURATION")), "")
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None
