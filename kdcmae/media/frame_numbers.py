"""How many frames of a clip are used, and which; needs no decoder."""

from __future__ import annotations

__all__ = ["FRAMES_PER_CLIP", "MIDDLE_FRAME"]

FRAMES_PER_CLIP = 10

MIDDLE_FRAME = 5
"""The frame that the published evaluation uses; frames count from 0."""
