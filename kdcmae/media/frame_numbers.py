"""How many frames of a clip are used, and which; needs no decoder."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

__all__ = ["FRAMES_PER_CLIP", "MIDDLE_FRAME", "frames_between", "spread_numbers"]

FRAMES_PER_CLIP = 10

MIDDLE_FRAME = 5
"""The frame that the published evaluation uses; frames count from 0."""


def spread_numbers(first: int, end: int) -> list[int]:
    """The numbers of ten evenly spread frames from ``first`` to before ``end``.

    Source: frame i is number i * n // 10 of n frames, as in the published extraction, whose n are those of the first
        ten seconds.
    """
    return [first + i * (end - first) // FRAMES_PER_CLIP for i in range(FRAMES_PER_CLIP)]


def frames_between(shown_s: Sequence[float], start_s: float, end_s: float) -> tuple[int, int]:
    """First and one past the last frame shown in a span of time; at least one frame.

    Args:
        shown_s: when each frame is shown, in order.
        start_s, end_s: of the span; its end is excluded.
    """
    first, end = bisect_left(shown_s, start_s), bisect_left(shown_s, end_s)
    if first < end:
        return first, end
    seen = max(0, bisect_right(shown_s, start_s) - 1)
    return seen, seen + 1
