"""What a stream returns: a result per window, and its statistics."""

from __future__ import annotations

from dataclasses import dataclass

from kdcmae.runtime.predictions import Prediction

__all__ = ["StreamResult", "StreamStatistics"]


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """The labels of one window of a stream.

    Args:
        start_s, end_s: of the window in seconds, by the clock of the timestamps.
        predictions: best first.
        frame_s: timestamp of the frame that was seen; None for sound alone.
        latency_ms: from when the window was complete until its scores were there.
        missed: that took longer than the deadline.
    """

    start_s: float
    end_s: float
    predictions: tuple[Prediction, ...]
    frame_s: float | None
    latency_ms: float
    missed: bool


@dataclass(kw_only=True)
class StreamStatistics:
    """Counts of a stream since its start.

    Args:
        windows: that were scored.
        deadline_misses: scored windows whose scores came after the deadline.
        dropped_windows: that were never scored, because newer ones waited.
        unscored_windows: that were never scored, because no frame had come and the engine needs one.
        late_frames: that came after every window that could show them.
        duplicate_frames: with the timestamp of another one.
        silence_s: seconds of sound that did not come, for which silence stands.
        overlap_s: seconds of sound that came for a time that already had some, and were dropped.
        restarts: jumps of the clock by more than a window, after which the windows start anew.
        reused_sounds, reused_frames: windows whose sound or frame was that of the window before, so that it was not
            prepared again.
        latency_p50_ms, latency_p90_ms, latency_max_ms: of the last thousand windows; 0 without any.
    """

    windows: int = 0
    deadline_misses: int = 0
    dropped_windows: int = 0
    unscored_windows: int = 0
    late_frames: int = 0
    duplicate_frames: int = 0
    silence_s: float = 0.0
    overlap_s: float = 0.0
    restarts: int = 0
    reused_sounds: int = 0
    reused_frames: int = 0
    latency_p50_ms: float = 0.0
    latency_p90_ms: float = 0.0
    latency_max_ms: float = 0.0
