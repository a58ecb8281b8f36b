"""Windows of a clip of any length: each has the sound of its span of time and frames shown in it.

Memory does not grow with the file: it holds one window of sound, and the few frames that later windows share with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError
from kdcmae.media.clip import decode
from kdcmae.media.container import find_stream, opened, packets_of
from kdcmae.media.decoding import decodable, require_intact
from kdcmae.media.extent import Track, require_decoded, survey
from kdcmae.media.frame_numbers import frames_between, spread_numbers
from kdcmae.media.frames import upright_rgb
from kdcmae.media.kinds import KINDS, Modality
from kdcmae.media.resampling import SAMPLE_RATE_HZ, Mono
from kdcmae.media.seeking import Seeker, seekable
from kdcmae.media.sound import MonoSound
from kdcmae.media.windows import Cutter, Window, Windowing

__all__ = ["ClipWindow", "ClipWindows"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipWindow:
    """One window of a clip.

    Args:
        start_s, end_s: of its span, from the start of the clip's sound, or of its video where no sound is read.
        waveform: (S,) float32, 16 kHz mono; None without sound.
        frames: (H, W, 3) uint8 RGB, those asked for of ten that are spread evenly over the span; None without frames.
    """

    start_s: float
    end_s: float
    waveform: NDArray[np.float32] | None
    frames: list[NDArray[np.uint8]] | None


class ClipWindows:
    """The windows of a media file, in order; read when they are iterated.

    Args:
        path: of the file.
        modality: whether sound, frames or both are read.
        frame_numbers: of the ten frames of each window.
        windowing: in samples at 16 kHz.
        mono: how several channels become one.
        threads: of each decoder; 0 for one per core.

    Raises:
        DataError: as :func:`kdcmae.media.clip.read_clip`, here or while it is iterated.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        modality: Modality,
        frame_numbers: Sequence[int],
        windowing: Windowing,
        *,
        mono: Mono = "mean",
        threads: int = 0,
    ) -> None:
        self._path, self._kinds, self._numbers = Path(path), KINDS[modality], frame_numbers
        self._windowing, self._mono, self._threads = windowing, mono, threads
        self._tracks = survey(self._path, *self._kinds)
        leading = self._tracks.get("audio") or self._tracks["video"]
        self._starts = windowing.starts(round((leading.end_s - leading.shown_from_s) * SAMPLE_RATE_HZ))
        self._from_s = leading.shown_from_s

    def __len__(self) -> int:
        """Number of windows according to the file's packets; decoding may yield one more or less."""
        return len(self._starts)

    def __iter__(self) -> Iterator[ClipWindow]:
        if len(self) == 1:
            yield self._whole()
            return
        pictures = self._seen() if "video" in self._kinds else None
        frames: list[NDArray[np.uint8]] | None = None
        for number, window in enumerate(self._heard() if "audio" in self._kinds else self._silent()):
            if pictures is not None and number < len(self):
                frames = next(pictures)
            waveform = window.samples if "audio" in self._kinds else None
            length = self._windowing.length if waveform is None else len(waveform)
            start_s, end_s = window.start / SAMPLE_RATE_HZ, (window.start + length) / SAMPLE_RATE_HZ
            yield ClipWindow(start_s=start_s, end_s=end_s, waveform=waveform, frames=frames)

    def _whole(self) -> ClipWindow:
        """The only window of a clip that fits into one, read as in training."""
        parts: list[NDArray[np.float32]] = []
        seconds = self._windowing.length / SAMPLE_RATE_HZ
        decoded = decode(
            self._path,
            self._kinds,
            parts.append,
            seconds=seconds,
            mono=self._mono,
            threads=self._threads,
            frame_numbers=self._numbers,
        )
        waveform = np.concatenate(parts) if parts else None
        frames = None if decoded.frames is None else list(decoded.frames)
        end_s = min(seconds, decoded.duration_s) if waveform is None else len(waveform) / SAMPLE_RATE_HZ
        return ClipWindow(start_s=0.0, end_s=end_s, waveform=waveform, frames=frames)

    def _silent(self) -> Iterator[Window]:
        """Windows of a clip whose sound is not read."""
        for start in self._starts:
            yield Window(start, np.empty(0, dtype=np.float32))

    def _heard(self) -> Iterator[Window]:
        """Windows of the sound while it is decoded."""
        parts: list[NDArray[np.float32]] = []
        sound, cutter = MonoSound(self._path, parts.append, mono=self._mono), Cutter(self._windowing)
        with opened(self._path) as container:
            stream = decodable(find_stream(self._path, container, "audio"), self._threads)
            for packet in packets_of(container, [stream]):
                for frame in packet.decode():
                    require_intact(self._path, frame)
                    assert isinstance(frame, av.AudioFrame)
                    sound.add(frame)
                for samples in parts:
                    yield from cutter.push(samples)
                parts.clear()
        sound.finish()
        for samples in parts:
            yield from cutter.push(samples)
        if not sound.count:
            raise DataError(f"{self._path}: the audio stream holds no samples")
        require_decoded(self._path, self._tracks["audio"], sound.heard_s)
        yield from cutter.finish()

    def _seen(self) -> Iterator[list[NDArray[np.uint8]]]:
        """The frames of each window, each decoded once for all of them."""
        track = self._tracks["video"]
        shown_s = track.shown_s()
        wanted = []
        for start in self._starts:
            start_s = self._from_s + start / SAMPLE_RATE_HZ
            end_s = start_s + self._windowing.length / SAMPLE_RATE_HZ
            spread = spread_numbers(*frames_between(shown_s, start_s, end_s))
            wanted.append([spread[number] for number in self._numbers])
        pictures = _pictures(
            self._path, track, sorted({number for frames in wanted for number in frames}), self._threads
        )
        kept: dict[int, NDArray[np.uint8]] = {}
        for numbers in wanted:
            kept = {number: picture for number, picture in kept.items() if number >= min(numbers)}
            while not kept.keys() >= set(numbers):
                number, picture = next(pictures)
                kept[number] = picture
            yield [kept[number] for number in numbers]


def _pictures(path: Path, track: Track, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames by their numbers, in ascending order; seeks if the file allows it."""
    done, size = 0, (0, 0)
    if seekable(track):
        with opened(path) as container:
            seeker = Seeker(path, container, track, threads)
            for number in wanted:
                frame = seeker.frame(number)
                if frame is None:
                    break
                size = size if done else (frame.width, frame.height)
                done += 1
                yield number, upright_rgb(frame, size)
    yield from _counted(path, wanted[done:], threads)


def _counted(path: Path, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The same by decoding every frame; the last frame replaces frames that are missing at the end."""
    if not wanted:
        return
    left, size, latest = list(reversed(wanted)), None, None
    with opened(path) as container:
        stream = decodable(find_stream(path, container, "video"), threads)
        for count, frame in enumerate(container.decode(stream)):
            require_intact(path, frame)
            assert isinstance(frame, av.VideoFrame)
            size, latest = size or (frame.width, frame.height), frame
            if count == left[-1]:
                yield left.pop(), upright_rgb(frame, size)
            if not left:
                return
    if latest is None or size is None:
        raise DataError(f"{path}: the video stream holds no frames")
    for number in reversed(left):
        yield number, upright_rgb(latest, size)
