"""How AVSynth is named where a data set is asked for: ``avsynth`` or ``avsynth:CLIPS``. Loads little."""

from __future__ import annotations

from pathlib import Path

from kdcmae.errors import ConfigError

__all__ = ["CLIPS", "NAME", "names_avsynth"]

NAME = "avsynth"
CLIPS = {"train": 2000, "valid": 300, "test": 600}  # of each split, where no number is given


def names_avsynth(data: str) -> bool:
    """Whether ``avsynth`` or ``avsynth:CLIPS`` stands there; False for the name of something else.

    Raises:
        ConfigError: no number of clips behind the colon.
    """
    name, colon, count = data.partition(":")
    if name != NAME or Path(data).exists():
        return False
    if colon and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise ConfigError(f"data={data}: write a number of clips, such as {NAME}:{CLIPS['train']}")
    return True
