"""What a model takes of a clip: sound, pictures or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["KINDS", "Kind", "Modality"]

Kind = Literal["audio", "video"]
Modality = Literal["audiovisual", "audio", "video"]

KINDS: Mapping[Modality, tuple[Kind, ...]] = {
    "audiovisual": ("audio", "video"),
    "audio": ("audio",),
    "video": ("video",),
}
"""The streams of a file that each modality reads."""
