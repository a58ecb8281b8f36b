"""Unusable clips: each raises an error that can be counted, and too many of them stop the run.

:func:`clip_boundary` is the only place where errors become broken clips, in training, checks, extraction and
evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kdcmae.errors import ConfigError, DataError, DiskFullError
from kdcmae.files.disk import disk_is_full

__all__ = ["BROKEN_LIMIT", "Broken", "BrokenClipError", "BrokenClips", "clip_boundary"]

BROKEN_LIMIT = 0.01
"""Largest share of a data set's clips that may be broken."""

_LISTED = 100  # clips that an error message names

Broken = tuple[str, str]
"""The id of a clip that cannot be used, and why."""


class BrokenClipError(DataError):
    """A clip of a dataset cannot be used."""

    def __init__(self, clip_id: str, reason: str) -> None:
        super().__init__(f"clip {clip_id!r}: {reason}")
        self.clip_id = clip_id
        self.reason = reason

    def __reduce__(self) -> tuple[type[BrokenClipError], tuple[str, str]]:
        return type(self), (self.clip_id, self.reason)  # so that it passes between processes


@contextmanager
def clip_boundary(clip_id: str) -> Iterator[None]:
    """Turn any error while a clip is read into a :class:`BrokenClipError`: files fail in unforeseeable ways.

    Raises:
        BrokenClipError: any error; the message names the type of an error of another library.
        DiskFullError: nothing more can be written, for this clip or any other.
        MemoryError: unchanged, because the clip did not cause it.
    """
    try:
        yield
    except (BrokenClipError, DiskFullError, MemoryError):
        raise
    except DataError as error:
        raise BrokenClipError(clip_id, _line(error)) from error
    except Exception as error:
        if disk_is_full(error):
            place = getattr(error, "filename", None) or f"clip {clip_id!r}"
            raise DiskFullError(f"{place}: no space left on the device; free some and run again") from error
        raise BrokenClipError(clip_id, f"{type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class BrokenClips:
    """Counts clips that cannot be used, and stops the run past a limit.

    Each rank of a training run counts its own clips; the loop adds the counts of the other ranks when it saves.

    Args:
        limit: largest share of them that may be broken.
    """

    def __init__(
        self,
        clips: int,
        limit: float = BROKEN_LIMIT,
        *,
        fix: str = "find all with `kdcmae data check`, or raise the limit",
    ) -> None:
        if not 0 <= limit <= 1:
            raise ConfigError(f"broken_limit={limit} must be from 0 to 1")
        self._clips, self._limit, self._fix = clips, limit, fix
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
                f"{self._fix}:\n{listed}"
            )
