"""The name of AVSynth where a command or a function asks for clips: ``avsynth`` or ``avsynth:CLIPS``.

The name always means AVSynth. A folder of that name is given as ``./avsynth``, so that a folder in the working
directory cannot change what a command measures or trains on.
"""

from __future__ import annotations

from pathlib import Path

from kdcmae.errors import ConfigError

__all__ = ["CLIPS", "NAME", "names_avsynth"]

NAME = "avsynth"
CLIPS = {"train": 2000, "valid": 300, "test": 600}
"""Default number of clips of each split."""


def names_avsynth(data: str | Path) -> bool:
    """Whether this is ``avsynth`` or ``avsynth:CLIPS``; a :class:`~pathlib.Path` never is.

    Raises:
        ConfigError: no number of clips after the colon.
    """
    if isinstance(data, Path):
        return False
    name, colon, count = data.partition(":")
    if name != NAME:
        return False
    if colon and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise ConfigError(f"data={data}: write a number of clips, such as {NAME}:{CLIPS['train']}")
    return True
