"""Clips that cannot be used: one raises, many stop the run."""

from __future__ import annotations

from collections.abc import Iterable

from kdcmae.errors import ConfigError, DataError

__all__ = ["BROKEN_LIMIT", "Broken", "BrokenClipError", "BrokenClips"]

BROKEN_LIMIT = 0.01
"""Largest share of a data set's clips that may be broken."""

_LISTED = 100  # clips that an error lists by name

Broken = tuple[str, str]
"""The id of a clip that cannot be used, and why."""


class BrokenClipError(DataError):
    """A clip of a dataset cannot be used.

    Args:
        clip_id: which one.
        reason: why, in one line.
    """

    def __init__(self, clip_id: str, reason: str) -> None:
        super().__init__(f"clip {clip_id!r}: {reason}")
        self.clip_id = clip_id
        self.reason = reason


class BrokenClips:
    """Counts clips that cannot be used, and stops the run past a limit.

    Each rank of a training counts those it reads; the loop adds what the others found whenever it saves.

    Args:
        clips: in the dataset.
        limit: largest share of them that may be broken.
    """

    def __init__(self, clips: int, limit: float = BROKEN_LIMIT) -> None:
        if not 0 <= limit <= 1:
            raise ConfigError(f"broken_limit={limit} must be from 0 to 1")
        self._clips, self._limit = clips, limit
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, broken: Iterable[Broken]) -> None:
        """Count clips, each once.

        Raises:
            DataError: too many; lists them with their reasons.
        """
        self.reasons.update(broken)
        if len(self) > self._limit * self._clips:
            listed = "\n".join(f"  {clip_id}: {reason}" for clip_id, reason in sorted(self.reasons.items())[:_LISTED])
            raise DataError(
                f"{len(self)} of {self._clips} clips cannot be used, more than the limit of {self._limit:.2%}; "
                f"find all with `kdcmae data check`, or raise the limit:\n{listed}"
            )
